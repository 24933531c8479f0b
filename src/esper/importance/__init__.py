"""How much each unit matters: scores from the optimizer's state, and a tracker that samples steps."""

from esper.importance.accumulate import UnitReducer, by_anatomy_name
from esper.importance.governor import OverheadGovernor
from esper.importance.scores import (
    SecondMoments,
    combine,
    fisher,
    magnitude,
    moments_from_optimizer,
    moments_from_state,
    rank_normalize,
)
from esper.importance.settings import ImportanceSettings, ScoreWeights
from esper.importance.statistics import UnitStatistics
from esper.importance.stopwatch import ClockStopwatch, DeviceStopwatch, Stopwatch
from esper.importance.tracker import ImportanceTracker

__all__ = [
    "ClockStopwatch",
    "DeviceStopwatch",
    "ImportanceSettings",
    "ImportanceTracker",
    "OverheadGovernor",
    "ScoreWeights",
    "SecondMoments",
    "Stopwatch",
    "UnitReducer",
    "UnitStatistics",
    "by_anatomy_name",
    "combine",
    "fisher",
    "magnitude",
    "moments_from_optimizer",
    "moments_from_state",
    "rank_normalize",
]
