"""How the workers of a session are told about in its report."""

from __future__ import annotations

from pathlib import Path

from esper.session.pool import worker_rows
from esper.workers import InlinePool, LocalPool, WorkerTask
from tests.workers import tasks


def test_there_is_one_row_per_worker_as_soon_as_one_has_done_something(tmp_path: Path) -> None:
    pool = LocalPool(1, tasks.PRELOAD)
    try:
        assert worker_rows(pool) == ()
        pool.submit(WorkerTask(tasks.crash_once, {"marker": tmp_path / "marker"})).wait()
        pool.submit(WorkerTask(tasks.fail, {"text": "wrong"})).wait()
        (row,) = worker_rows(pool)
    finally:
        pool.close()
    assert (row.worker, row.done, row.failed, row.killed, row.condition) == (0, 1, 1, 1, "ok")
    assert row.peak_bytes is not None
    assert row.message


def test_what_the_trainer_does_itself_is_no_workers_work() -> None:
    pool = InlinePool()
    pool.submit(WorkerTask(tasks.echo, {"value": 1})).wait()
    assert worker_rows(pool) == ()
    assert worker_rows(None) == ()
