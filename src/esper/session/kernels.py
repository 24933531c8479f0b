"""The kernels of a session: who makes them, and where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from esper.checkpoint import KERNELS, CheckpointStore, KeyRing, SealedFolder
from esper.config import Config
from esper.kasmina.seeds import Kernels
from esper.tezzeret import PRELOAD, KernelShelf, Tezzeret
from esper.workers import InlinePool, LocalPool, WorkerPool, can_copy


@contextmanager
def kernel_pool_ahead(config: Config, probe: object, policy: object) -> Iterator[WorkerPool | None]:
    """The worker that kernels are made in, where it is ready before the first one is asked for.

    That is where something will surely grow, or where a copy of this process, which starts in milliseconds,
    can be made: before any key is read. Otherwise it starts with the first kernel.
    """
    may_copy = not KeyRing.was_held
    will_grow = policy is not None or config.strategy.policy != "none"
    is_asked = probe is not None and config.analysis.workers != 0
    pool = (
        LocalPool(1, PRELOAD, may_copy=may_copy)
        if is_asked and (will_grow or (may_copy and can_copy()))
        else None
    )
    try:
        yield pool
    except BaseException:
        if pool is not None:
            pool.close()
        raise


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
        return LocalPool(1, PRELOAD) if is_apart else InlinePool()

    return Kernels(Tezzeret(shelf, open_pool, settings, pool), settings, is_apart=is_apart)
