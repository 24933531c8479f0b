"""The tiers of one rank: values become the summary of a region, and those of all regions one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from esper.narset.summary import Summary, merged, summed

RATIO = 32
MAX_NAMES = 64
"""Quantities that a region takes; a name made of data would otherwise grow without end."""

_MAX_STRIDE = 1024


class Region:
    """Takes values of one rank, one by one or many, and gives their summaries, exact however they came.

    Per name at most `ratio` times `ratio` values are held, and one summary of the rest. They are summed up
    all at once, and where a period is shorter, at its end: between two steps of a network each sum begins
    with a cold cache.

    Args:
        name: of the region, as others call it.
        ratio: how many values make a window, and how many windows one summary.
        max_fraction: share of the time that summing up may take. Above it only every second, fourth, ...
            value is taken until it is met; None: every value is taken.
        clock: seconds.
    """

    def __init__(
        self,
        name: str,
        ratio: int = RATIO,
        *,
        max_fraction: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = name
        self.dropped = 0
        """Values that were not taken since `drain` was last called."""
        self.stride = 1
        """One of how many values is taken."""
        self._full = ratio * ratio
        self._max_fraction = max_fraction
        self._clock = clock
        self._windows: dict[str, list[float]] = {}
        self._whole: dict[str, Summary] = {}
        self._passed = 0
        self._heavy = 0
        self._last = clock()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was taken since `drain` was last called."""
        return not (self._whole or any(self._windows.values()))

    def record(self, name: str, value: float) -> None:
        """Takes one value of a quantity; a Python number, so that nothing is waited for."""
        if self.stride > 1 and not self._is_turn():
            return
        try:
            window = self._windows[name]
        except KeyError:
            made = self._new(name)
            if made is None:
                return
            window = made
        window.append(value)
        if len(window) >= self._full:
            self._close(name, window)

    def record_many(self, name: str, values: list[float]) -> None:
        """Takes many at once; the same summary as one by one, sooner."""
        window = self._windows.get(name)
        if window is None and (window := self._new(name)) is None:
            self.dropped += len(values) - 1
            return
        window.extend(values)
        whole = len(window) // self._full * self._full
        for start in range(0, whole, self._full):
            self._raise(name, summed(window[start : start + self._full]))
        del window[:whole]

    def drain(self) -> tuple[Mapping[str, Summary], int]:
        """The summary of everything since the last call, by name, and how many values were dropped."""
        for name, window in self._windows.items():
            if window:
                self._raise(name, summed(window))
                window.clear()
        whole, dropped = self._whole, self.dropped
        self._whole, self.dropped = {}, 0
        return whole, dropped

    def _new(self, name: str) -> list[float] | None:
        if len(self._windows) >= MAX_NAMES:
            self.dropped += 1
            return None
        return self._windows.setdefault(name, [])

    def _is_turn(self) -> bool:
        self._passed += 1
        if self._passed < self.stride:
            self.dropped += 1
            return False
        self._passed = 0
        return True

    def _close(self, name: str, window: list[float]) -> None:
        """As many values as become one are there."""
        begun = self._clock()
        self._raise(name, summed(window))
        window.clear()
        if self._max_fraction is not None:
            self._adapt(begun, self._max_fraction)

    def _raise(self, name: str, summary: Summary) -> None:
        before = self._whole.get(name)
        self._whole[name] = summary if before is None else merged((before, summary))

    def _adapt(self, begun: float, limit: float) -> None:
        now = self._clock()
        share = (now - begun) / max(now - self._last, 1e-9)
        self._last = now
        self._heavy = self._heavy + 1 if share > limit else 0
        if self._heavy > 1:  # once may be another program's doing
            self._heavy = 0
            self.stride = min(self.stride * 2, _MAX_STRIDE)
        elif share < limit / 4 and self.stride > 1:
            self.stride //= 2
