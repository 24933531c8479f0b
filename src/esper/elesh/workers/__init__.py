"""Worker processes for analysis: killable, capped, and never able to take the trainer or each other along."""

from esper.elesh.workers.count import workers_needed
from esper.elesh.workers.gather import gather
from esper.elesh.workers.health import Condition, WorkerHealth
from esper.elesh.workers.inline import InlineHandle, InlinePool
from esper.elesh.workers.local import LocalHandle, LocalPool
from esper.elesh.workers.task import Status, TaskHandle, TaskOutcome, WorkerPool, WorkerTask

__all__ = [
    "Condition",
    "InlineHandle",
    "InlinePool",
    "LocalHandle",
    "LocalPool",
    "Status",
    "TaskHandle",
    "TaskOutcome",
    "WorkerHealth",
    "WorkerPool",
    "WorkerTask",
    "gather",
    "workers_needed",
]
