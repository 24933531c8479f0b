"""How large a sketch is made, and what it says about itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from esper.errors import ConfigError


@dataclass(frozen=True)
class SketchSize:
    """Rows and buckets of a sketch.

    Source: spec 000, "ImportanceTracker", and spec 003, "Offline Analysis Benefits".
    """

    width: int
    depth: int

    @classmethod
    def for_training(cls, num_parameters: int, error_rate: float = 0.001) -> SketchSize:
        """Width max(10,000, P / 1,000) and depth max(7, ln(1 / error_rate)), rounded up."""
        return cls(max(10_000, -(-num_parameters // 1_000)), _depth(7, error_rate))


@dataclass(frozen=True)
class SketchStats:
    """What a sketch holds and how far its answers can be off.

    Attributes:
        is_exact: every answer is exact so far.
        total: sum of all values.
        num_updates: values that were added.
        num_keys: distinct keys while they are counted, None once the sketch is in use.
        occupied_fraction: mean share of the buckets of a row that hold something.
        error_bound: an answer is above the truth by at most this much, with `confidence`; never below it.
        confidence: probability of that for one key.
        memory_bytes: of sums and keys.
    """

    is_exact: bool
    total: float
    num_updates: int
    num_keys: int | None
    occupied_fraction: float
    error_bound: float
    confidence: float
    memory_bytes: int


def _depth(least: int, error_rate: float) -> int:
    if not 0 < error_rate < 1:
        raise ConfigError(f"An error rate of {error_rate} was given, expected one between 0 and 1.")
    return max(least, math.ceil(math.log(1 / error_rate)))
