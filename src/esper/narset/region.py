"""The tiers of one rank: values become windows, windows summaries of a region, and those one for all."""

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

    Per name at most `ratio` values, `ratio` summaries of windows and one summary of the rest are held.

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
        self._ratio = ratio
        self._max_fraction = max_fraction
        self._clock = clock
        self._windows: dict[str, list[float]] = {}
        self._regional: dict[str, list[Summary]] = {}
        self._whole: dict[str, Summary] = {}
        self._passed = 0
        self._heavy = 0
        self._last = clock()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was taken since `drain` was last called."""
        return not (self._whole or any(self._windows.values()) or any(self._regional.values()))

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
        if len(window) >= self._ratio:
            self._close(name, window)

    def record_many(self, name: str, values: list[float]) -> None:
        """Takes many at once; the same summary as one by one, sooner."""
        window = self._windows.get(name)
        if window is None and (window := self._new(name)) is None:
            self.dropped += len(values) - 1
            return
        room = self._ratio - len(window)
        window.extend(values[:room])
        if len(window) < self._ratio:
            return
        self._close(name, window)
        whole = (len(values) - room) // self._ratio * self._ratio
        step = self._ratio * self._ratio
        for start in range(room, room + whole, step):
            self._raise(name, summed(values[start : min(start + step, room + whole)]))
        window.extend(values[room + whole :])

    def drain(self) -> tuple[Mapping[str, Summary], int]:
        """The summary of everything since the last call, by name, and how many values were dropped."""
        for name, window in self._windows.items():
            if window:
                self._regional[name].append(summed(window))
                window.clear()
            self._lift(name)
        whole, dropped = self._whole, self.dropped
        self._whole, self.dropped = {}, 0
        return whole, dropped

    def _new(self, name: str) -> list[float] | None:
        if len(self._windows) >= MAX_NAMES:
            self.dropped += 1
            return None
        self._regional[name] = []
        return self._windows.setdefault(name, [])

    def _is_turn(self) -> bool:
        self._passed += 1
        if self._passed < self.stride:
            self.dropped += 1
            return False
        self._passed = 0
        return True

    def _close(self, name: str, window: list[float]) -> None:
        """Tier one to two: a full window becomes one summary."""
        begun = self._clock()
        regional = self._regional[name]
        regional.append(summed(window))
        window.clear()
        if len(regional) >= self._ratio:
            self._lift(name)
        if self._max_fraction is not None:
            self._adapt(begun, self._max_fraction)

    def _lift(self, name: str) -> None:
        """Tier two to three: the summaries of a region become part of the one for everybody."""
        if self._regional[name]:
            self._raise(name, merged(self._regional[name]))
            self._regional[name].clear()

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
