"""Where events go: each is emitted once, and whoever wants to hear of it is a sink."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, runtime_checkable

from esper.nissa.event import Event


class Sink(Protocol):
    """Somebody who is told what happens, in the thread in which it does; one event at a time."""

    def emit(self, event: Event) -> None: ...


@runtime_checkable
class GroupSink(Sink, Protocol):
    """A sink that takes several events at once for less than one after another."""

    def emit_all(self, group: Sequence[Event]) -> None: ...


class LoggerSink:
    """Tells people: the logger "esper", a problem as WARNING.

    Attributes:
        says: puts a sentence in the words of a run, which may count in something else than epochs.
        is_heard: whether standard error is told where nobody has set up logging. Most people have not, and
            would never learn what is done to their network.
    """

    def __init__(self, says: Callable[[str], str] = str, *, is_heard: bool = False) -> None:
        self.says = says
        self.is_heard = is_heard

    def emit(self, event: Event) -> None:
        self.write(event.severity, self.says(event.line))

    def write(self, severity: int, line: str) -> None:
        """Tells one sentence that no event stands behind."""
        logger = logging.getLogger("esper")
        is_set_up = logger.level != logging.NOTSET or logger.hasHandlers()
        if is_set_up or not self.is_heard:
            logger.log(severity, "%s", line)
        elif severity >= logging.INFO and sys.stderr is not None:
            with suppress(OSError, ValueError):  # a full disk, a reader that has gone, or it was closed
                sys.stderr.write(f"esper: {line}\n")


LOGGER = LoggerSink()
"""The sink of whatever runs without a session."""


class ListSink:
    """Keeps what it is told, for tests and whoever wants to look at the values."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


class FanOut:
    """One sink that stands for several, and drops what it has told before.

    Attributes:
        sinks: who is told, in this order; a further one is appended.
    """

    def __init__(self, *sinks: Sink) -> None:
        self.sinks = list(sinks)
        self._past: set[Event] = set()
        self._lock = threading.RLock()  # the writer of checkpoints has a thread of its own

    def emit(self, event: Event) -> None:
        """Tells every sink, unless an equal event that is told once came before."""
        self.emit_all((event,))

    def emit_all(self, group: Sequence[Event]) -> None:
        """Tells every sink all of several events, one sink after the other."""
        with self._lock:
            fresh = [event for event in group if self._is_new(event)]
            for sink in self.sinks:
                if isinstance(sink, GroupSink):
                    sink.emit_all(fresh)
                    continue
                for event in fresh:
                    sink.emit(event)

    def _is_new(self, event: Event) -> bool:
        """Whether an event is to be told; one that is told once is known from then on."""
        if event.is_once and event in self._past:
            return False
        if event.is_once:
            self._past.add(event)
        return True
