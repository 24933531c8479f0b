"""What Esper does at every optimizer step beside tracking, as a share of training."""

from __future__ import annotations

import math


class AtSteps:
    """Adds up what counting, telemetry and a look at the mail take, and the time of the steps around them."""

    def __init__(self) -> None:
        self._taken = self._between = 0.0
        self._last = math.nan

    def took(self, begun: float, ended: float) -> None:
        """At one step it took from `begun` to `ended`, in seconds of one clock."""
        if begun > self._last:  # false at the first step of a period: what came before it is no part of one
            self._between += begun - self._last
            self._taken += ended - begun
        self._last = ended

    def pause(self) -> None:
        """What comes now is no step."""
        self._last = math.nan

    @property
    def share(self) -> float:
        """Of the time of steps, 0 to 1; NaN before the second one."""
        whole = self._between + self._taken
        return self._taken / whole if whole else math.nan
