"""Coordination: when to prune, how much, which units, and what to do when it goes wrong."""

from esper.emrakul.budget import Breaker, Budget, Phase
from esper.emrakul.coordinator import (
    Analyze,
    Coordinator,
    CoordinatorState,
    Cycle,
    Recall,
    Screen,
    Validate,
)
from esper.emrakul.cost import CostModel
from esper.emrakul.cutting import worthwhile_cut
from esper.emrakul.finalists import finalists
from esper.emrakul.floors import floors
from esper.emrakul.history import CycleRecord
from esper.emrakul.latency import LatencyModel, LatencyTable
from esper.emrakul.on_request import OfflinePruning
from esper.emrakul.origin import Origin
from esper.emrakul.outcome import CycleOutcome, Status
from esper.emrakul.plan import Plan, Rejection, shrink
from esper.emrakul.rationale import Rationale
from esper.emrakul.rollback import (
    Baseline,
    EpochRecord,
    RollbackReason,
    Strategy,
    Trigger,
    has_settled,
    should_roll_back,
    strategy_for,
)
from esper.emrakul.schedule import Allowance, Schedule, ScheduleState
from esper.emrakul.selection import make_plan
from esper.emrakul.settings import Settings, Target
from esper.emrakul.stages import Stage
from esper.emrakul.timing import measure_latency

__all__ = [
    "Allowance",
    "Analyze",
    "Baseline",
    "Breaker",
    "Budget",
    "Coordinator",
    "CoordinatorState",
    "CostModel",
    "Cycle",
    "CycleOutcome",
    "CycleRecord",
    "EpochRecord",
    "LatencyModel",
    "LatencyTable",
    "OfflinePruning",
    "Origin",
    "Phase",
    "Plan",
    "Rationale",
    "Recall",
    "Rejection",
    "RollbackReason",
    "Schedule",
    "ScheduleState",
    "Screen",
    "Settings",
    "Stage",
    "Status",
    "Strategy",
    "Target",
    "Trigger",
    "Validate",
    "finalists",
    "floors",
    "has_settled",
    "make_plan",
    "measure_latency",
    "should_roll_back",
    "shrink",
    "strategy_for",
    "worthwhile_cut",
]
