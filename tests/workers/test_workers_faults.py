"""Real crashes, hangs and memory hogs: each costs its own task, nobody else's, and leaves nothing behind."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from esper.errors import AnalysisError, ConfigError
from esper.leyline import ManualClock
from esper.workers.gather import gather
from esper.workers.inline import InlinePool
from esper.workers.local import LocalPool
from esper.workers.task import Status, WorkerTask
from tests.workers import worker_tasks as tasks

MIB = 1 << 20


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    opened = LocalPool(2)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def single() -> Iterator[LocalPool]:
    """A pool of one worker, for tests in which one task must wait for another."""
    opened = LocalPool(1)
    yield opened
    opened.close()


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe: reading it waits until a task has written."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def wait_for_death(pid: int) -> None:
    """Returns when the process has ended; fails after a minute."""
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([ended], [], [], 60.0)[0], f"process {pid} is still alive"
    finally:
        os.close(ended)


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize(("how", "word"), [("exit", "exit code 3"), ("segv", "SIGSEGV")])
def test_a_crash_is_tried_once_more_and_then_lost_with_its_cause(
    pool: LocalPool, how: str, word: str
) -> None:
    outcome = pool.submit(WorkerTask(tasks.crash, {"how": how})).outcome()
    assert outcome.status is Status.LOST
    assert outcome.attempts == 2
    assert word in outcome.message


def test_a_task_that_crashes_once_is_done_at_the_second_attempt(pool: LocalPool, tmp_path: Path) -> None:
    outcome = pool.submit(WorkerTask(tasks.crash_once, {"marker": tmp_path / "marker"})).outcome()
    assert outcome.value == "second time"
    assert outcome.attempts == 2


def test_twenty_crashes_cost_no_innocent_task(pool: LocalPool) -> None:
    innocent, guilty = [], []
    for number in range(200):
        innocent.append(pool.submit(WorkerTask(tasks.echo, {"value": number})))
        if number % 10 == 0:
            guilty.append(pool.submit(WorkerTask(tasks.crash, {"how": "exit" if number % 20 else "segv"})))
    assert [handle.outcome().value for handle in innocent] == list(range(200))
    assert [handle.outcome().attempts for handle in innocent] == [1] * 200
    assert {handle.outcome().status for handle in guilty} == {Status.LOST}


def test_a_hang_is_killed_at_its_deadline_while_others_work(pool: LocalPool) -> None:
    hanging = pool.submit(WorkerTask(tasks.hang, deadline_seconds=0.5, retries=0))
    assert pool.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1
    outcome = hanging.outcome()
    assert outcome.status is Status.TIMEOUT
    assert outcome.attempts == 1
    assert "0.5 seconds" in outcome.message


def test_a_hang_is_tried_once_more(pool: LocalPool) -> None:
    assert pool.submit(WorkerTask(tasks.hang, deadline_seconds=0.2)).outcome().attempts == 2


def test_gather_cancels_what_is_not_over_in_time_and_keeps_the_rest(single: LocalPool) -> None:
    done = single.submit(WorkerTask(tasks.echo, {"value": 1}))
    done.wait()
    late = [single.submit(WorkerTask(tasks.hang)), single.submit(WorkerTask(tasks.echo, {"value": 2}))]
    outcomes = gather([done, *late], 0.2)
    assert [outcome.status for outcome in outcomes] == [Status.DONE, Status.CANCELED, Status.CANCELED]


def test_what_a_task_started_is_killed_with_it(pool: LocalPool, pipe: Path) -> None:
    handle = pool.submit(WorkerTask(tasks.hang_with_child, {"pipe": pipe}))
    child = int(pipe.read_text())
    handle.cancel()
    assert handle.outcome().status is Status.CANCELED
    wait_for_death(child)


@pytest.mark.parametrize("how", ["torch", "bytes"])
def test_a_task_over_its_memory_cap_ends_with_status_memory(pool: LocalPool, how: str) -> None:
    hog = {"num_bytes": 400 * MIB, "how": how}
    outcome = pool.submit(WorkerTask(tasks.allocate, hog, memory_bytes=200 * MIB)).outcome()
    assert outcome.status is Status.MEMORY
    assert outcome.attempts == 2
    assert outcome.message != ""
    within = pool.submit(WorkerTask(tasks.allocate, hog, memory_bytes=500 * MIB))
    assert within.outcome().value == 400 * MIB


def test_a_cap_ends_with_its_task(single: LocalPool) -> None:
    assert single.submit(WorkerTask(tasks.echo, {"value": 1}, memory_bytes=50 * MIB)).outcome().is_done
    free = single.submit(WorkerTask(tasks.allocate, {"num_bytes": 300 * MIB, "how": "torch"}))
    assert free.outcome().value == 300 * MIB


@pytest.mark.parametrize(
    ("how", "cap_bytes", "status"),
    [
        ("read-only", 32 * MIB, Status.DONE),
        ("safetensors", 32 * MIB, Status.MEMORY),
        ("safetensors", 96 * MIB, Status.DONE),
    ],
)
def test_only_private_maps_of_files_count_against_the_cap(
    pool: LocalPool, tmp_path: Path, how: str, cap_bytes: int, status: Status
) -> None:
    save_file({"big": torch.ones(16 * MIB)}, tmp_path / "big.safetensors")
    arguments = {"file": tmp_path / "big.safetensors", "how": how}
    outcome = pool.submit(WorkerTask(tasks.sum_mapped, arguments, memory_bytes=cap_bytes)).outcome()
    assert outcome.status is status, outcome.message


def test_a_waiting_task_is_canceled_without_ever_running(
    single: LocalPool, pipe: Path, tmp_path: Path
) -> None:
    running = single.submit(WorkerTask(tasks.say_and_hang, {"pipe": pipe}))
    worker = int(pipe.read_text())
    waiting = single.submit(WorkerTask(tasks.crash_once, {"marker": tmp_path / "marker"}))
    waiting.cancel()
    assert waiting.outcome().status is Status.CANCELED
    assert waiting.outcome().attempts == 0
    assert not running.is_over()
    assert not running.wait(0.01)
    running.cancel()
    assert running.outcome().status is Status.CANCELED
    wait_for_death(worker)
    assert single.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().is_done
    assert not (tmp_path / "marker").exists()


def test_closing_cancels_what_runs_wakes_who_waits_and_leaves_no_process(pipe: Path) -> None:
    before = children_of(os.getpid())
    pool = LocalPool(1)
    supervisor = pool.submit(WorkerTask(tasks.surroundings)).outcome().value["parent"]
    handle = pool.submit(WorkerTask(tasks.say_and_hang, {"pipe": pipe}))
    woken: list[Status] = []
    thread = threading.Thread(target=lambda: woken.append(handle.outcome().status))
    thread.start()
    worker = int(pipe.read_text())
    pool.close()
    assert handle.outcome().status is Status.CANCELED
    assert "closed" in handle.outcome().message
    thread.join(60.0)
    assert woken == [Status.CANCELED]
    wait_for_death(worker)
    wait_for_death(supervisor)
    assert children_of(os.getpid()) == before  # not even a zombie


def test_crashed_workers_are_buried(pool: LocalPool) -> None:
    for _ in range(3):
        pool.submit(WorkerTask(tasks.crash, {"how": "exit"})).outcome()
    supervisor = pool.submit(WorkerTask(tasks.surroundings)).outcome().value["parent"]
    for child in children_of(supervisor):
        assert "State:\tZ" not in Path(f"/proc/{child}/status").read_text()


def test_when_the_supervisor_is_killed_its_tasks_are_lost_and_the_pool_goes_on(
    single: LocalPool, pipe: Path
) -> None:
    supervisor = single.submit(WorkerTask(tasks.surroundings)).outcome().value["parent"]
    running = single.submit(WorkerTask(tasks.say_and_hang, {"pipe": pipe}))
    worker = int(pipe.read_text())
    os.kill(supervisor, signal.SIGKILL)
    assert running.outcome().status is Status.LOST
    assert "-9" in running.outcome().message
    wait_for_death(worker)
    assert single.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1


def test_a_supervisor_that_cannot_start_loses_the_task_with_a_message() -> None:
    pool = LocalPool(1, preload=("no_such_module_anywhere",))
    outcome = pool.submit(WorkerTask(tasks.echo, {"value": 1})).outcome()
    assert outcome.status is Status.LOST
    assert "exit code 1" in outcome.message
    pool.close()


def test_messages_larger_than_every_buffer_get_through_both_ways(pool: LocalPool) -> None:
    big = np.arange(200_000, dtype=np.float64)
    handles = [pool.submit(WorkerTask(tasks.echo, {"value": big + number})) for number in range(8)]
    assert [handle.outcome().value[0] for handle in handles] == list(range(8))
    assert handles[3].outcome().value.tolist() == (big + 3).tolist()


def test_many_threads_may_wait_at_once(pool: LocalPool) -> None:
    values: dict[int, object] = {}

    def ask(number: int) -> None:
        for part in range(20):
            values[100 * number + part] = pool.submit(WorkerTask(tasks.echo, {"value": part})).outcome().value

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {100 * number + part: part for number in range(6) for part in range(20)}


def test_a_worker_is_a_good_neighbor(pool: LocalPool) -> None:
    found = pool.submit(WorkerTask(tasks.surroundings)).outcome().value
    assert found["niceness"] == min(os.nice(0) + 10, 19)
    assert found["oom_score"] == 900
    assert found["threads"] == 1
    assert found["system_threads"] == 1
    assert found["core_bytes"] == 0
    assert found["has_torch"]
    assert found["main"] is None
    assert os.getpgid(found["parent"]) != os.getpgid(0)  # ctrl-C at the terminal goes to the trainer alone
    assert os.getsid(found["pid"]) == os.getsid(0)  # niceness counts within a session only
    assert sum(file.startswith("socket:") for file in found["open_files"]) == 1


@pytest.mark.parametrize("workers", [0, -1])
def test_a_pool_of_no_processes_is_refused(workers: int) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        LocalPool(workers)


def test_inline_reports_a_late_task_as_timeout() -> None:
    class TwoMinutesPerLook(ManualClock):
        def __call__(self) -> float:
            self.advance(120.0)
            return super().__call__()

    outcome = (
        InlinePool(TwoMinutesPerLook())
        .submit(WorkerTask(tasks.echo, {"value": 1}, deadline_seconds=60.0))
        .outcome()
    )
    assert outcome.status is Status.TIMEOUT
    assert outcome.value is None
    assert "60" in outcome.message


def test_a_fork_of_the_trainer_cannot_end_the_pool(pool: LocalPool) -> None:
    child = os.fork()
    if child == 0:
        pool.close()
        try:
            pool.submit(WorkerTask(tasks.echo, {"value": 1}))
        except AnalysisError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1
