"""Sinks that nobody waits for: what they are told waits in a bounded queue for a thread of their own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
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
    """

    def __init__(
        self, name: str, writer: Writer, problems: Callable[[Event], None], max_waiting: int
    ) -> None:
        self.lost = 0
        """Events that the writer was not told, or did not take."""
        self._name = name
        self._writer = writer
        self._problems = problems
        self._waiting: queue.Queue[tuple[float, Event] | None] = queue.Queue(max_waiting)
        self._is_told = False
        self._thread = threading.Thread(target=self._work, name=f"esper-{name}", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        try:
            self._waiting.put_nowait((time.time(), event))
        except queue.Full:
            self._lose(f"{self._waiting.maxsize} events wait for it, and no more are kept")

    def close(self, timeout_seconds: float = CLOSING_SECONDS) -> None:
        """Lets the writer take what waits, but not for longer than that."""
        if not self._thread.is_alive():
            return
        try:
            self._waiting.put(None, timeout=timeout_seconds)
        except queue.Full:
            return  # a daemon thread: it holds up nothing
        self._thread.join(timeout_seconds)

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            self._attempt(lambda item=item: self._writer.write(*item))  # type: ignore[misc]  # bound at once
        self._attempt(self._writer.close)

    def _attempt(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # noqa: BLE001 - whatever a sink does is no reason to stop training
            self._lose(f"{type(error).__name__}: {str(error).rstrip('.')}")

    def _lose(self, why: str) -> None:
        self.lost += 1
        if not self._is_told:
            self._is_told = True  # first: telling may come back here
            self._problems(SinkFailed(self._name, why))
