"""Selects the score below which units are candidates: a quantile, under caps by phase and safety level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from esper.arrays import BoolArray, FloatArray
from esper.errors import EvidenceError
from esper.importance.phases import TrainingPhase
from esper.settings import Fraction, Section


class SafetyLevel(StrEnum):
    """How much risk a decision may take."""

    CONSERVATIVE = "conservative"
    MODERATE = "moderate"
    AGGRESSIVE = "aggressive"


class ThresholdCaps(Section):
    """Largest share of the units that may lie below the threshold, at each safety level."""

    conservative: Fraction
    """At the level `conservative`."""

    moderate: Fraction
    """At the level `moderate`."""

    aggressive: Fraction
    """At the level `aggressive`."""


class ThresholdSettings(Section):
    """Caps of the candidates, phase by phase. Source: spec 003, "Adaptive Threshold Selection"."""

    early: ThresholdCaps = ThresholdCaps(conservative=0.001, moderate=0.01, aggressive=0.05)
    """In the first third of the planned run."""

    mid: ThresholdCaps = ThresholdCaps(conservative=0.005, moderate=0.02, aggressive=0.1)
    """In the second third, and where the length of the run is unknown."""

    late: ThresholdCaps = ThresholdCaps(conservative=0.01, moderate=0.05, aggressive=0.2)
    """In the last third."""


@dataclass(frozen=True)
class Threshold:
    """A score below which units are candidates.

    Attributes:
        score: Candidates score strictly less.
        fraction: Share of the measured units that do.
    """

    score: float
    fraction: float

    def below(self, scores: FloatArray) -> BoolArray:
        """The candidates among `scores`; what was not measured (NaN) is none."""
        candidates: BoolArray = scores < self.score
        return candidates


class AdaptiveThresholdSelector:
    """Selects the threshold from the scores themselves, so that it fits scores of any scale."""

    def __init__(self, settings: ThresholdSettings | None = None) -> None:
        self._settings = settings or ThresholdSettings()

    def select(
        self,
        scores: FloatArray,
        phase: TrainingPhase,
        safety: SafetyLevel,
        target_fraction: float = 0.1,
    ) -> Threshold:
        """The threshold below which at most the wanted and allowed share of the measured units lies.

        Equal scores stay together: where a tie would pass the share, all of it stays above.

        Args:
            scores: Importance of every unit, shape [units]; NaN is unmeasured and counts nowhere.
            phase: Of the training.
            safety: Of the decision.
            target_fraction: Share of the units that is wanted as candidates.

        Raises:
            EvidenceError: No unit was measured.
        """
        # Ascending, [measured].
        measured = np.sort(scores[np.isfinite(scores)])
        if not measured.size:
            raise EvidenceError("No unit has a score, so no threshold can be selected. Measure first.")
        cap: float = getattr(getattr(self._settings, phase.value), safety.value)
        allowed = min(max(target_fraction, 0.0), cap)
        # Rounded down, so that the cap holds; the small term makes up for products like 0.29 * 100 =
        # 28.999999999999996.
        count = math.floor(allowed * measured.size + 1e-9)
        # Candidates score strictly less than the score at this place. In a tie they are fewer than `count`.
        score = float(measured[count]) if count < measured.size else math.inf
        below = int(np.searchsorted(measured, score))
        return Threshold(score, below / measured.size)
