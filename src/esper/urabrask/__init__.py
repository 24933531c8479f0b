"""Validation: go or no-go for a mask, by measurement on held-out data."""

from esper.urabrask.measurement import Measurement
from esper.urabrask.settings import RetentionLimits, Settings
from esper.urabrask.validator import judge, level_of, validate
from esper.urabrask.verdict import Decision, Verdict

__all__ = [
    "Decision",
    "Measurement",
    "RetentionLimits",
    "Settings",
    "Verdict",
    "judge",
    "level_of",
    "validate",
]
