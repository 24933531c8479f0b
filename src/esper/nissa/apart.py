"""Sinks that nobody waits for: what they are told waits in a bounded queue for a thread of their own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from esper.nissa.event import Event
from esper.nissa.events import SinkFailed
from esper.nissa.sinks import Sink

CLOSING_SECONDS = 5.0
"""How long the end of a run waits until a slow sink has taken what is left."""


class Writer(Protocol):
    """Something that writes events down, in one thread; what it raises is told of once."""

    def write(self, at_seconds: float, event: Event, /) -> None:
        """Takes one event, and the moment at which it was emitted: seconds since 1970."""

    def close(self) -> None:
        """Nothing more comes."""


class Forwarding:
    """Writes by telling a sink of somebody's own."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, _at_seconds: float, event: Event, /) -> None:
        self._sink.emit(event)

    def close(self) -> None:
        """The sink is its owner's."""


class Apart:
    """A sink whose writer may be slow, dead or full: `emit` never waits for it and never fails.

    Args:
        name: what people call the writer.
        writer: who takes the events, in another thread.
        problems: who is told, once, that something was lost; may be told in either thread.
        max_waiting: events that may wait.
        patience_seconds: how long the end of a run waits for it, all in all.
    """

    def __init__(
        self,
        name: str,
        writer: Writer,
        problems: Callable[[Event], None],
        max_waiting: int,
        patience_seconds: float = CLOSING_SECONDS,
    ) -> None:
        self.lost = 0
        """Events that the writer was not told, or did not take."""
        self._name = name
        self._writer = writer
        self._problems = problems
        self._waiting: queue.Queue[tuple[float, Event] | None] = queue.Queue(max_waiting)
        self._is_told = False
        self._patience = patience_seconds
        self._thread = threading.Thread(target=self._work, name=f"esper-{name}", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        try:
            self._waiting.put_nowait((time.time(), event))
        except queue.Full:
            self._lose(f"{self._waiting.maxsize} events wait for it, and no more are kept")

    def settle(self, timeout_seconds: float = CLOSING_SECONDS) -> None:
        """Waits until the writer has taken what waits, and tells if it does not while somebody can hear.

        This and `close` together wait no longer than that.
        """
        with self._waited(timeout_seconds) as seconds, self._waiting.all_tasks_done:
            is_settled = self._waiting.all_tasks_done.wait_for(self._is_idle, seconds)
        if not is_settled:
            self._give_up()

    def close(self, timeout_seconds: float = CLOSING_SECONDS) -> None:
        """Lets the writer take what waits, but not for longer than that, and tells if it does not."""
        if not self._thread.is_alive():
            return
        with (
            self._waited(timeout_seconds) as seconds,
            suppress(queue.Full),
        ):  # a daemon thread: it holds up nothing
            self._waiting.put(None, timeout=seconds)
            self._thread.join(seconds)
        if self._thread.is_alive():
            self._give_up()

    @contextmanager
    def _waited(self, most_seconds: float) -> Iterator[float]:
        """How long may still be waited; what passes inside is taken from it."""
        begun = time.monotonic()
        yield min(most_seconds, self._patience)
        self._patience = max(0.0, self._patience - (time.monotonic() - begun))

    def _is_idle(self) -> bool:
        return self._waiting.unfinished_tasks == 0

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            self._attempt(lambda item=item: self._writer.write(*item))  # type: ignore[misc]  # bound at once
            self._waiting.task_done()
        self._attempt(self._writer.close)

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever a sink does is no reason to stop training
            self._lose(f"{type(error).__name__}: {str(error).rstrip('.')}")

    def _lose(self, why: str) -> None:
        self.lost += 1
        self._tell(why)

    def _give_up(self) -> None:
        self._tell(f"it has not taken within {CLOSING_SECONDS:g} s what it was told before the run ended")

    def _tell(self, why: str) -> None:
        if not self._is_told:
            self._is_told = True  # first: telling may come back here
            self._problems(SinkFailed(self._name, why))
