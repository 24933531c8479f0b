"""Validation: the quality of a network measured on held-out data, and go or no-go for a mask."""

from esper.urabrask.quality import (
    Measurement,
    ablation_rises,
    evaluate,
    joined,
    on_validation,
    run_live,
    run_twin,
    usable,
)
from esper.urabrask.settings import RetentionLimits, Settings
from esper.urabrask.validator import judge, level_of, validate
from esper.urabrask.verdict import Check, Decision, Retention, Verdict

__all__ = [
    "Check",
    "Decision",
    "Measurement",
    "Retention",
    "RetentionLimits",
    "Settings",
    "Verdict",
    "ablation_rises",
    "evaluate",
    "joined",
    "judge",
    "level_of",
    "on_validation",
    "run_live",
    "run_twin",
    "usable",
    "validate",
]
