"""Killable worker processes with deadlines; they know nothing of what they compute."""

from esper.workers.copying import can_copy
from esper.workers.count import workers_needed
from esper.workers.health import Condition, WorkerHealth
from esper.workers.inline import InlineHandle, InlinePool
from esper.workers.local import LocalPool
from esper.workers.task import Ending, TaskHandle, TaskOutcome, WorkerPool, WorkerTask
from esper.workers.worker import inherited_bytes

__all__ = [
    "Condition",
    "Ending",
    "InlineHandle",
    "InlinePool",
    "LocalPool",
    "TaskHandle",
    "TaskOutcome",
    "WorkerHealth",
    "WorkerPool",
    "WorkerTask",
    "can_copy",
    "inherited_bytes",
    "workers_needed",
]
