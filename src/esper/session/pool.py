"""The worker pool of a session: how many processes, what they import, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from esper.anatomy.graph import is_parallel
from esper.checkpoint import KeyRing
from esper.config import Config
from esper.elesh import PRELOAD, ready
from esper.report import WorkerRow
from esper.tezzeret import PRELOAD as KERNELS
from esper.workers import Ending, InlinePool, LocalPool, WorkerHealth, WorkerPool, WorkerTask, workers_needed


@contextmanager
def pool_ahead(config: Config, probe: object, model: nn.Module) -> Iterator[WorkerPool | None]:
    """A pool that is opened before the network is traced and before any key is read.

    Workers are copies of this process, whose imports the trace needs too, or import torch meanwhile at low
    priority; nobody waits for them before the end of an epoch.
    """
    is_asked = config.pruning.is_enabled and probe is not None
    # No key has been read yet: a copy of this process holds none. Nor should one hold lines to other ranks,
    # who would wait for it when this process has died.
    may_copy = not KeyRing.was_held and not is_parallel(model)
    pool = open_pool(config, model, may_copy=may_copy) if is_asked else None
    if pool is not None and not isinstance(pool, InlinePool):
        pool.submit(WorkerTask(ready))
    try:
        yield pool
    except BaseException:
        if pool is not None:
            pool.close()
        raise


def open_pool(config: Config, model: nn.Module, *, may_copy: bool = False) -> WorkerPool:
    """As many worker processes as asked for; none: in this process.

    Unset: as many as there are cores beside the one that trains, but more than four only where so many
    parameters need them. Each opens the network for itself, so a second one on the same core only costs.
    """
    workers, pruning = config.analysis.workers, config.pruning
    if workers is None:
        seconds = pruning.budget.deadline_seconds * pruning.budget.analysis_fraction
        parameters = sum(parameter.numel() for parameter in model.parameters())
        needed = workers_needed(parameters, len(pruning.schedule.levels), seconds)
        workers = max(min(4, (os.cpu_count() or 1) - 1), needed, 1)
    return LocalPool(workers, (*PRELOAD, *KERNELS), may_copy=may_copy) if workers else InlinePool()


def worker_rows(pool: WorkerPool | None) -> tuple[WorkerRow, ...]:
    """How every worker process has fared so far; none where no process has done anything."""
    if pool is None or isinstance(pool, InlinePool):
        return ()
    health = pool.health()
    return tuple(_row(worker) for worker in health) if any(worker.attempts for worker in health) else ()


def _row(worker: WorkerHealth) -> WorkerRow:
    ended = worker.attempts
    return WorkerRow(
        worker=worker.worker,
        done=ended.get(Ending.DONE, 0),
        failed=ended.get(Ending.FAILED, 0),
        killed=sum(ended.get(status, 0) for status in (Ending.LOST, Ending.TIMEOUT, Ending.MEMORY)),
        peak_bytes=worker.peak_bytes,
        condition=worker.condition.value,
        message=worker.message,
    )
