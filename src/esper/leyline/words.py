"""Plain words that several parts share: levels of a network, and the stages and gates of a seed."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum


class Level(StrEnum):
    """How large the pieces are that a decision removes, from the least to the most far-reaching."""

    CHANNEL = "channel"
    HEAD = "head"
    LAYER = "layer"

    @classmethod
    def highest(cls, names: Iterable[str]) -> Level:
        """The most far-reaching of some levels or unit kinds; `CHANNEL` when there is none."""
        order = list(cls)
        return max((cls(name) for name in names), key=order.index, default=cls.CHANNEL)


class SeedLifecycleStage(IntEnum):
    """How far a seed has come; messages and checkpoints hold the numbers."""

    UNKNOWN = 0
    DORMANT = 1
    GERMINATED = 2
    TRAINING = 3
    BLENDING = 4
    SHADOWING = 5
    PROBATIONARY = 6
    FOSSILIZED = 7
    CULLED = 8
    EMBARGOED = 9
    RESETTING = 10
    TERMINATED = 11


class SeedLifecycleGate(IntEnum):
    """What is asked of a seed before it leaves a stage."""

    UNKNOWN = 0
    G0_SANITY = 1
    G1_GRADIENT_HEALTH = 2
    G2_STABILITY = 3
    G3_INTERFACE = 4
    G4_SYSTEM_IMPACT = 5
    G5_RESET = 6
