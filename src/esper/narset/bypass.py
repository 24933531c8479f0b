"""Problems are told at once, past all tiers; a flood of them is cut off, counted, and told of."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from esper.nissa import Event, Severity, Sink, progress

MAX_PER_MINUTE = 120


class Capped:
    """Stands before sinks, and lets through what is no problem, and 120 problems in any minute.

    Args:
        sinks: who is told.
        problems: who is told, once, that something was held back.
        clock: seconds.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        problems: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.held_back = 0
        """Problems that the sinks were not told of."""
        self._sinks = sinks
        self._problems = problems
        self._clock = clock
        self._past: deque[float] = deque(maxlen=MAX_PER_MINUTE)
        self._is_told = False

    def emit(self, event: Event) -> None:
        if event.severity >= Severity.PROBLEM and not isinstance(event, progress.ProblemsHeldBack):
            now = self._clock()
            if len(self._past) == MAX_PER_MINUTE and now - self._past[0] < 60.0:
                self._hold_back()
                return
            self._past.append(now)
        for sink in self._sinks:
            sink.emit(event)

    def _hold_back(self) -> None:
        self.held_back += 1
        if not self._is_told:
            self._is_told = True  # first: telling comes back here
            self._problems(progress.ProblemsHeldBack(MAX_PER_MINUTE))
