"""How many workers an analysis needs."""

from __future__ import annotations

import math
import os

PARAMETERS_PER_SECOND = 500_000
"""What one worker analyzes in a second."""


def workers_needed(
    parameters: int,
    levels: int,
    seconds: float,
    *,
    parameters_per_second: float = PARAMETERS_PER_SECOND,
    cores: int | None = None,
) -> int:
    """Workers for an analysis: parameters x levels / (rate x time), rounded up, at most one per core.

    Args:
        parameters: of the network.
        levels: how many kinds of units are analyzed (channels, heads, layers); each reads the network again.
        seconds: time that there is.
        parameters_per_second: what one worker analyzes.
        cores: of the machine; None: this one's.

    Source: spec 002, "Scaling Considerations", with the levels multiplied instead of divided by.
    """
    needed = math.ceil(parameters * levels / (parameters_per_second * seconds))
    return max(1, min(needed, cores or os.cpu_count() or 1))
