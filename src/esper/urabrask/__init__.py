"""Validation: go or no-go for a mask by measured quality, and for a kernel by what it is at birth."""

from esper.urabrask.kernel_checks import KernelLimits, KernelMeasures, check_kernel
from esper.urabrask.kernel_measures import measured_kernel, size_of
from esper.urabrask.quality import (
    Measurement,
    ablation_rises,
    evaluate,
    fitting,
    ignored_class,
    joined,
    on_better_statistics,
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
    "KernelLimits",
    "KernelMeasures",
    "Measurement",
    "Retention",
    "RetentionLimits",
    "Settings",
    "Verdict",
    "ablation_rises",
    "check_kernel",
    "evaluate",
    "fitting",
    "ignored_class",
    "joined",
    "judge",
    "level_of",
    "measured_kernel",
    "on_better_statistics",
    "on_validation",
    "run_live",
    "run_twin",
    "size_of",
    "usable",
    "validate",
]
