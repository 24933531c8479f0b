"""What is known about each worker: nothing at first, then how its attempts ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.workers import Ending, InlinePool, LocalPool, WorkerHealth, WorkerTask
from esper.workers.health import Condition
from tests.workers import tasks


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    opened = LocalPool(1, tasks.PRELOAD)
    yield opened
    opened.close()


def test_a_worker_that_has_ended_no_task_is_unknown() -> None:
    pool = LocalPool(3, tasks.PRELOAD)
    assert [worker.condition for worker in pool.health()] == [Condition.UNKNOWN] * 3
    assert [worker.worker for worker in pool.health()] == [0, 1, 2]
    pool.close()
    assert [worker.condition for worker in pool.health()] == [Condition.UNKNOWN] * 3


def test_a_crash_that_was_made_good_stays_in_the_record(pool: LocalPool, tmp_path: Path) -> None:
    outcome = pool.submit(WorkerTask(tasks.crash_once, {"marker": tmp_path / "marker"})).outcome()
    assert outcome.worker == 0
    assert outcome.peak_bytes is not None
    assert 0 < outcome.peak_bytes < 100 << 20  # its own: no share of what was imported before it
    [worker] = pool.health()
    assert worker.attempts == {Ending.LOST: 1, Ending.DONE: 1}
    assert worker.condition is Condition.OK
    assert "exit code 3" in worker.message
    assert worker.peak_bytes == outcome.peak_bytes


def test_a_worker_is_failing_after_a_loss_and_well_again_after_a_task_that_ends_by_itself(
    pool: LocalPool,
) -> None:
    pool.submit(WorkerTask(tasks.crash, {"how": "exit"})).outcome()
    assert pool.health()[0].condition is Condition.FAILING
    pool.submit(WorkerTask(tasks.fail, {"text": "wrong"})).outcome()  # the task's fault, not the worker's
    assert pool.health()[0].condition is Condition.OK


def test_work_done_by_the_caller_is_the_health_of_worker_zero() -> None:
    pool = InlinePool()
    assert pool.health() == (WorkerHealth(0),)
    pool.submit(WorkerTask(tasks.echo, {"value": 1}))
    assert pool.health()[0].attempts == {Ending.DONE: 1}


def test_a_task_that_was_canceled_says_nothing_about_its_worker() -> None:
    canceled = WorkerHealth(0).after(Ending.CANCELED, "stopped", 1.0, None)
    assert canceled.condition is Condition.UNKNOWN
    assert canceled.attempts == {Ending.CANCELED: 1}


def test_a_supervisor_that_has_died_leaves_what_was_known() -> None:
    pool = LocalPool(1, tasks.PRELOAD)
    supervisor = pool.submit(WorkerTask(os.getppid)).outcome().value
    hanging = pool.submit(WorkerTask(tasks.hang))
    os.kill(supervisor, signal.SIGKILL)
    assert hanging.outcome().ending is Ending.LOST
    assert pool.health()[0].attempts == {Ending.DONE: 1}
    assert pool.submit(WorkerTask(tasks.echo, {"value": 2})).outcome().value == 2
    pool.close()
