"""Where in its training a network is, and which signals then count how much."""

from __future__ import annotations

from enum import StrEnum


class TrainingPhase(StrEnum):
    """A third of the planned run."""

    EARLY = "early"
    MID = "mid"
    LATE = "late"

    @classmethod
    def at(cls, epoch: int, planned_epochs: int | None) -> TrainingPhase:
        """The phase after `epoch` epochs; `MID` where nobody knows how long training will take.

        Source: spec 003, "Adaptive Threshold Selection".
        """
        if planned_epochs is None or planned_epochs < 1:
            return cls.MID
        if 3 * epoch <= planned_epochs:
            return cls.EARLY
        return cls.MID if 3 * epoch <= 2 * planned_epochs else cls.LATE
