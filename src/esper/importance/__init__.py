"""How much each unit matters: scores, what is remembered of them, and how far they can be trusted."""

from esper.importance.accumulate import UnitReducer, by_anatomy_name
from esper.importance.element_sketch import SketchedElements
from esper.importance.elements import ElementScores
from esper.importance.governor import OverheadGovernor
from esper.importance.hashing import element_keys, name_keys
from esper.importance.history import ImportanceTrend, UnitHistory
from esper.importance.levels import LEVELS, MultiLevelCountMinSketch
from esper.importance.looking import affordable_samples, look_at_twin
from esper.importance.phases import TrainingPhase
from esper.importance.quality import AccuracyTargets, ImportanceTrackingValidator, RankingQuality
from esper.importance.scores import (
    SecondMoments,
    combine,
    fisher,
    magnitude,
    moments_from_optimizer,
    moments_from_state,
    rank_normalize,
)
from esper.importance.settings import ElementSettings, ImportanceSettings, PhaseWeights, ScoreWeights
from esper.importance.sketch import CountMinSketch
from esper.importance.sketch_size import SketchSize, SketchStats
from esper.importance.statistics import UnitStatistics
from esper.importance.stopwatch import ClockStopwatch, DeviceStopwatch, Stopwatch
from esper.importance.thresholds import (
    AdaptiveThresholdSelector,
    SafetyLevel,
    Threshold,
    ThresholdCaps,
    ThresholdSettings,
)
from esper.importance.tracked import TrackedEvidence
from esper.importance.tracker import ImportanceTracker
from esper.importance.twin_statistics import LossChanges, activation_frequency, loss_changes

__all__ = [
    "LEVELS",
    "AccuracyTargets",
    "AdaptiveThresholdSelector",
    "ClockStopwatch",
    "CountMinSketch",
    "DeviceStopwatch",
    "ElementScores",
    "ElementSettings",
    "ImportanceSettings",
    "ImportanceTracker",
    "ImportanceTrackingValidator",
    "ImportanceTrend",
    "LossChanges",
    "MultiLevelCountMinSketch",
    "OverheadGovernor",
    "PhaseWeights",
    "RankingQuality",
    "SafetyLevel",
    "ScoreWeights",
    "SecondMoments",
    "SketchSize",
    "SketchStats",
    "SketchedElements",
    "Stopwatch",
    "Threshold",
    "ThresholdCaps",
    "ThresholdSettings",
    "TrackedEvidence",
    "TrainingPhase",
    "UnitHistory",
    "UnitReducer",
    "UnitStatistics",
    "activation_frequency",
    "affordable_samples",
    "by_anatomy_name",
    "combine",
    "element_keys",
    "fisher",
    "look_at_twin",
    "loss_changes",
    "magnitude",
    "moments_from_optimizer",
    "moments_from_state",
    "name_keys",
    "rank_normalize",
]
