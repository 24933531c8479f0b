"""What a task has started ends with the task, and nothing outlives a pool, however each of them ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.workers import Ending, LocalPool, WorkerTask
from tests.workers import tasks
from tests.workers.processes import children_of, wait_for_death

HOW = ["same group", "session", "daemon"]


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    opened = LocalPool(1, tasks.PRELOAD)
    yield opened
    opened.close()


def spawning(pipe: Path, how: str, then: str, deadline_seconds: float = 60.0) -> WorkerTask:
    arguments = {"pipe": pipe, "how": how, "then": then}
    return WorkerTask(tasks.spawn, arguments, deadline_seconds=deadline_seconds, retries=0)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("then", "ending"), [("return", Ending.DONE), ("crash", Ending.LOST)])
def test_it_ends_with_a_task_that_ends_by_itself(
    pool: LocalPool, pipe: Path, how: str, then: str, ending: Ending
) -> None:
    handle = pool.submit(spawning(pipe, how, then))
    child = int(pipe.read_text())
    assert handle.outcome().ending is ending
    wait_for_death(child)


def test_it_ends_with_a_task_that_is_killed_at_its_deadline(pool: LocalPool, pipe: Path) -> None:
    handle = pool.submit(spawning(pipe, "daemon", "hang", deadline_seconds=1.0))
    child = int(pipe.read_text())
    assert handle.outcome().ending is Ending.TIMEOUT
    wait_for_death(child)


@pytest.mark.parametrize("how", HOW)
def test_it_ends_with_a_task_that_is_canceled(pool: LocalPool, pipe: Path, how: str) -> None:
    handle = pool.submit(spawning(pipe, how, "hang"))
    child = int(pipe.read_text())
    handle.cancel()
    assert handle.outcome().ending is Ending.CANCELED
    wait_for_death(child)


@pytest.mark.parametrize("how", HOW)
def test_it_ends_with_a_supervisor_that_is_killed(pool: LocalPool, pipe: Path, how: str) -> None:
    supervisor = pool.submit(WorkerTask(os.getppid)).outcome().value
    handle = pool.submit(spawning(pipe, how, "hang"))
    child = int(pipe.read_text())
    os.kill(supervisor, signal.SIGKILL)
    assert handle.outcome().ending is Ending.LOST
    wait_for_death(child)


@pytest.mark.parametrize("how", HOW)
def test_when_a_pool_is_closed_all_its_processes_have_ended(pipe: Path, how: str) -> None:
    before = children_of(os.getpid())
    pool = LocalPool(1, tasks.PRELOAD)
    around = pool.submit(WorkerTask(tasks.surroundings)).outcome().value
    pool.submit(spawning(pipe, how, "hang"))
    child = int(pipe.read_text())
    pool.close()
    for pid in (child, around["pid"], around["parent"]):
        assert not Path(f"/proc/{pid}").exists()
    assert children_of(os.getpid()) == before  # not even a zombie


def test_a_task_that_leaves_nothing_behind_keeps_its_worker(pool: LocalPool) -> None:
    worker = pool.submit(WorkerTask(os.getpid)).outcome().value
    assert pool.submit(WorkerTask("subprocess:call", {"args": "true"})).outcome().value == 0
    assert pool.submit(WorkerTask(os.getpid)).outcome().value == worker
