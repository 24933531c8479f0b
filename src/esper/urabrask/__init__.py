"""Validation: go or no-go for a mask, by measurement on held-out data."""

from esper.urabrask.checks import (
    check_connectivity,
    check_floors,
    check_gradients,
    check_mask,
    check_members,
    check_memory,
    check_only_removes,
)
from esper.urabrask.measurement import Measure, Measurement
from esper.urabrask.retention import check_retention
from esper.urabrask.settings import RetentionLimits, Settings
from esper.urabrask.validator import judge, level_of, validate
from esper.urabrask.verdict import Check, Decision, Retention, Verdict

__all__ = [
    "Check",
    "Decision",
    "Measure",
    "Measurement",
    "Retention",
    "RetentionLimits",
    "Settings",
    "Verdict",
    "check_connectivity",
    "check_floors",
    "check_gradients",
    "check_mask",
    "check_members",
    "check_memory",
    "check_only_removes",
    "check_retention",
    "judge",
    "level_of",
    "validate",
]
