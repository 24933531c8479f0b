"""One cycle from a checkpoint to a decision: screen, analyze, plan, validate, commit."""

from esper.emrakul.cycle.coordinator import Coordinator, CoordinatorState, Cycle
from esper.emrakul.cycle.cycle import MASK, CycleRunner, Decision, read_mask
from esper.emrakul.cycle.history import CycleRecord
from esper.emrakul.cycle.outcome import CycleOutcome, Status
from esper.emrakul.cycle.records import ArchivedCycle, archived

__all__ = [
    "MASK",
    "ArchivedCycle",
    "Coordinator",
    "CoordinatorState",
    "Cycle",
    "CycleOutcome",
    "CycleRecord",
    "CycleRunner",
    "Decision",
    "Status",
    "archived",
    "read_mask",
]
