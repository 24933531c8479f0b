"""Coordination: when to prune, how much, which units, and what to do when it goes wrong."""

from esper.emrakul.rollback import (
    Baseline,
    EpochRecord,
    RollbackReason,
    Strategy,
    Trigger,
    limits_for,
    should_roll_back,
)
from esper.emrakul.schedule import Allowance, Schedule, misfit, planned_epochs
from esper.emrakul.settings import RecoverySettings, RollbackSettings, Settings, Target
from esper.emrakul.stages import ScheduleSettings
from esper.emrakul.trial import Action, MaskEvent, MaskState, Trial, Watch

__all__ = [
    "Action",
    "Allowance",
    "Baseline",
    "EpochRecord",
    "MaskEvent",
    "MaskState",
    "RecoverySettings",
    "RollbackReason",
    "RollbackSettings",
    "Schedule",
    "ScheduleSettings",
    "Settings",
    "Strategy",
    "Target",
    "Trial",
    "Trigger",
    "Watch",
    "limits_for",
    "misfit",
    "planned_epochs",
    "should_roll_back",
]
