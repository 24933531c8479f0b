"""How much each unit matters: scores, what is remembered of them, and how far they can be trusted."""

from esper.importance.phases import TrainingPhase
from esper.importance.quality import AccuracyTargets, ImportanceTrackingValidator, RankingQuality
from esper.importance.scores import (
    combine,
    moments_from_optimizer,
    moments_from_state,
    rank_normalize,
)
from esper.importance.settings import ImportanceSettings, ScoreWeights
from esper.importance.squares import fisher, fisher_and_magnitude, magnitude
from esper.importance.thresholds import (
    AdaptiveThresholdSelector,
    SafetyLevel,
    ThresholdCaps,
    ThresholdSettings,
)

__all__ = [
    "AccuracyTargets",
    "AdaptiveThresholdSelector",
    "ImportanceSettings",
    "ImportanceTrackingValidator",
    "RankingQuality",
    "SafetyLevel",
    "ScoreWeights",
    "ThresholdCaps",
    "ThresholdSettings",
    "TrainingPhase",
    "combine",
    "fisher",
    "fisher_and_magnitude",
    "magnitude",
    "moments_from_optimizer",
    "moments_from_state",
    "rank_normalize",
]
