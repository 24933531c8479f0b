"""The settings of the worker pool."""

from __future__ import annotations

from esper.config_types import Count, PositiveCount, Seconds, Section


class WorkerSettings(Section):
    """Where analysis runs."""

    workers: Count = 1
    """Worker processes beside the trainer; 0 analyzes in the training process."""

    task_deadline_seconds: Seconds = 300.0
    """Time that one attempt of one task may take before its process is killed."""

    task_memory_bytes: PositiveCount = 4 << 30
    """Memory that one task may take, the files that it maps not counted."""
