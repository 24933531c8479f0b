"""One cycle from a checkpoint to a decision: screen, analyze, plan, validate, commit."""

from esper.emrakul.cycle.commit import MASK, CycleEnd, PendingMask, read_mask
from esper.emrakul.cycle.coordinator import Coordinator, CoordinatorState
from esper.emrakul.cycle.decide import Analyst, Cycle
from esper.emrakul.cycle.history import CycleRecord
from esper.emrakul.cycle.missed import RunEnd, why_missed
from esper.emrakul.cycle.outcome import CycleOutcome, CycleStatus
from esper.emrakul.cycle.runner import CycleRunner

__all__ = [
    "MASK",
    "Analyst",
    "Coordinator",
    "CoordinatorState",
    "Cycle",
    "CycleEnd",
    "CycleOutcome",
    "CycleRecord",
    "CycleRunner",
    "CycleStatus",
    "PendingMask",
    "RunEnd",
    "read_mask",
    "why_missed",
]
