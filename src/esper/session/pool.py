"""The processes that work for a session: those that analyze, and the one that makes kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import nn

from esper.anatomy.graph import is_parallel
from esper.checkpoint import KERNELS, CheckpointStore, KeyRing, SealedFolder
from esper.config import Config
from esper.elesh import PRELOAD, ready
from esper.kasmina.seeds import Kernels
from esper.report import WorkerRow
from esper.session.undoing import undone_on_error
from esper.tezzeret import PRELOAD as FOR_KERNELS
from esper.tezzeret import KernelShelf, Tezzeret
from esper.workers import (
    Ending,
    InlinePool,
    LocalPool,
    WorkerHealth,
    WorkerPool,
    WorkerTask,
    can_copy,
    workers_needed,
)


def pool_ahead(config: Config, probe: object, model: nn.Module) -> AbstractContextManager[WorkerPool | None]:
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
    return _closed_on_error(pool)


def kernel_pool_ahead(
    config: Config, probe: object, policy: object
) -> AbstractContextManager[WorkerPool | None]:
    """The worker that kernels are made in, where it is ready before the first one is asked for.

    That is where something will surely grow, or where a copy of this process, which starts in milliseconds,
    can be made: before any key is read. Otherwise it starts with the first kernel.
    """
    may_copy = not KeyRing.was_held
    will_grow = policy is not None or config.strategy.policy != "none"
    is_asked = probe is not None and config.analysis.workers != 0
    is_asked = is_asked and (will_grow or (may_copy and can_copy()))
    return _closed_on_error(LocalPool(1, FOR_KERNELS, may_copy=may_copy) if is_asked else None)


@contextmanager
def _closed_on_error(pool: WorkerPool | None) -> Iterator[WorkerPool | None]:
    with nullcontext() if pool is None else undone_on_error(pool.close):
        yield pool


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
    return LocalPool(workers, (*PRELOAD, *FOR_KERNELS), may_copy=may_copy) if workers else InlinePool()


def open_kernels(
    config: Config, store: CheckpointStore, ring: KeyRing, pool: WorkerPool | None = None
) -> Kernels:
    """Kernels of one run.

    Args:
        config: what they may take. Where analyses have no process (`analysis.workers = 0`) they have none.
        store: whose run they are of.
        ring: seals them.
        pool: started ahead; None: a process starts when the first kernel is asked for.
    """
    settings, is_apart = config.kernels, config.analysis.workers != 0
    folder = SealedFolder(store.run_dir / KERNELS, ring, store.identity)
    shelf = KernelShelf(folder, settings.cache_kernels, settings.cache_bytes)

    def open_pool() -> WorkerPool:
        return LocalPool(1, FOR_KERNELS) if is_apart else InlinePool()

    return Kernels(Tezzeret(shelf, open_pool, settings, pool), settings, is_apart=is_apart)


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
