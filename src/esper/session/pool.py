"""The worker pool of a session: how many processes, what they import, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from esper.config import Config
from esper.elesh.analysis import ready
from esper.elesh.workers import InlinePool, LocalPool, WorkerPool, WorkerTask

_IMPORT_SECONDS = 10.0
"""Most that attaching waits for workers to have imported what they need."""

_PRELOAD = ("torch", "torch._dynamo", "safetensors.torch", "esper.elesh.analysis")


@contextmanager
def pool_ahead(config: Config, probe: object) -> Iterator[WorkerPool | None]:
    """Workers import torch while the network is traced: beside training that would slow down every step."""
    pool = open_pool(config) if config.pruning.is_enabled and probe is not None else None
    try:
        yield pool
    except BaseException:
        if pool is not None:
            pool.close()
        raise


def open_pool(config: Config) -> WorkerPool:
    """As many worker processes as asked for, or as there are cores, at most four; none: in this process."""
    workers = config.analysis.workers
    if workers is None:
        workers = min(4, os.cpu_count() or 1)
    return LocalPool(workers, _PRELOAD) if workers else InlinePool()


def wait_for_imports(pool: WorkerPool) -> None:
    """Waits until a worker has started."""
    pool.submit(WorkerTask(ready)).wait(_IMPORT_SECONDS)
