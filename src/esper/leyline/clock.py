"""Time as something that is passed in: seconds on a clock that never goes back."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Seconds since some fixed moment, like `time.monotonic`."""

    def __call__(self) -> float: ...


class ManualClock:
    """A clock that moves only when it is told to: for tests, and for replaying a run."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves on by `seconds`.

        Raises:
            ValueError: `seconds` is negative; a monotonic clock cannot go back.
        """
        if seconds < 0:
            raise ValueError(f"A clock cannot go back by {-seconds} s; advance it by zero or more seconds.")
        self._now += seconds
