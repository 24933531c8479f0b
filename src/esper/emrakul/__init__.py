"""Coordination: when to prune, how much, which units, and what to do when it goes wrong."""

from esper.emrakul.rollback import Baseline, EpochRecord, RollbackReason, Strategy, Trigger, should_roll_back
from esper.emrakul.schedule import Allowance, Schedule
from esper.emrakul.settings import RollbackSettings, Settings, Target
from esper.emrakul.trial import Trial, Watch

__all__ = [
    "Allowance",
    "Baseline",
    "EpochRecord",
    "RollbackReason",
    "RollbackSettings",
    "Schedule",
    "Settings",
    "Strategy",
    "Target",
    "Trial",
    "Trigger",
    "Watch",
    "should_roll_back",
]
