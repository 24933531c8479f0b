"""Workers that crash among tasks of others: no innocent task is lost, and no process is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from esper.workers import Ending, LocalPool, WorkerTask
from tests.faults.regimes.regime import Regime
from tests.workers import tasks
from tests.workers.processes import children_of

_INNOCENT = 4
_AT_ONCE = 10


def _cases(_: Path, first: int, goal: int) -> Iterator[str]:
    before = set(children_of(os.getpid()))
    pool = LocalPool(2, tasks.PRELOAD)
    try:
        for number in range(first, goal, _AT_ONCE):
            yield from crashes(pool, range(number, min(goal, number + _AT_ONCE)))
    finally:
        pool.close()
    left = set(children_of(os.getpid())) - before
    if left:
        yield f"processes are left: {left}"


def crashes(pool: LocalPool, numbers: range) -> Iterator[str]:
    """Crashes one after another, each with innocent tasks before and behind it."""
    handles = []
    for number in numbers:
        how = "exit" if number % 2 else int(signal.SIGSEGV)
        innocent = [pool.submit(WorkerTask(tasks.echo, {"value": number + k})) for k in range(_INNOCENT // 2)]
        guilty = pool.submit(WorkerTask(tasks.crash, {"how": how}, retries=0))
        innocent += [
            pool.submit(WorkerTask(tasks.echo, {"value": number + k}))
            for k in range(_INNOCENT // 2, _INNOCENT)
        ]
        handles.append((number, innocent, guilty))
    for number, innocent, guilty in handles:
        outcomes = [handle.outcome() for handle in innocent]
        is_lost = [one.value for one in outcomes] != [number + k for k in range(_INNOCENT)]
        if is_lost or any(one.attempts != 1 for one in outcomes):
            yield f"an innocent task beside crash {number} was lost"
        else:
            yield "" if guilty.outcome().ending is Ending.LOST else f"crash {number} was not told"


CRASHES = Regime("worker-crashes", f"crash of a worker beside {_INNOCENT} tasks of others", 1_000, _cases)
