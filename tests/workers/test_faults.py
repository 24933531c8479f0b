"""Real crashes, hangs and memory hogs: each costs its own task and nobody else's."""

from __future__ import annotations

import os
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
from esper.workers import Ending, InlinePool, LocalPool, WorkerTask
from tests.faults.regimes.crashes import crashes
from tests.workers import tasks, torch_tasks
from tests.workers.processes import children_of, wait_for_death

MIB = 1 << 20


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    opened = LocalPool(2, tasks.PRELOAD)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def with_torch() -> Iterator[LocalPool]:
    """A pool of one worker that has imported torch."""
    opened = LocalPool(1, ("torch", "safetensors.torch"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def single() -> Iterator[LocalPool]:
    """A pool of one worker, for tests in which one task must wait for another."""
    opened = LocalPool(1, tasks.PRELOAD)
    yield opened
    opened.close()


REAL_TIME_SIGNAL = int(signal.SIGRTMIN) + 6


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("exit", "exit code 3"),
        (int(signal.SIGSEGV), "SIGSEGV"),
        (REAL_TIME_SIGNAL, f"signal {REAL_TIME_SIGNAL}"),
    ],
)
def test_a_crash_is_tried_once_more_and_then_lost_with_its_cause(
    pool: LocalPool, how: str | int, word: str
) -> None:
    outcome = pool.submit(WorkerTask(tasks.crash, {"how": how})).outcome()
    assert outcome.ending is Ending.LOST
    assert outcome.attempts == 2
    assert word in outcome.message


def test_a_task_that_crashes_once_is_done_at_the_second_attempt(pool: LocalPool, tmp_path: Path) -> None:
    outcome = pool.submit(WorkerTask(tasks.crash_once, {"marker": tmp_path / "marker"})).outcome()
    assert outcome.value == "second time"
    assert outcome.attempts == 2


def test_twenty_crashes_cost_no_innocent_task(pool: LocalPool) -> None:
    assert list(crashes(pool, range(20))) == [""] * 20


def test_a_hang_is_killed_at_its_deadline_while_others_work(pool: LocalPool) -> None:
    hanging = pool.submit(WorkerTask(tasks.hang, deadline_seconds=0.5, retries=0))
    assert pool.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1
    outcome = hanging.outcome()
    assert outcome.ending is Ending.TIMEOUT
    assert outcome.attempts == 1
    assert "0.5 seconds" in outcome.message


def test_a_hang_is_tried_once_more(pool: LocalPool) -> None:
    assert pool.submit(WorkerTask(tasks.hang, deadline_seconds=0.2)).outcome().attempts == 2


@pytest.mark.parametrize("text", [b"hello", b"espr" + bytes(11) + b"\x05hello"], ids=["print", "imitation"])
def test_what_a_task_writes_into_its_channel_costs_that_task_alone(pool: LocalPool, text: bytes) -> None:
    innocent = [pool.submit(WorkerTask(tasks.echo, {"value": number})) for number in range(4)]
    stray = pool.submit(WorkerTask(tasks.write_everywhere, {"text": text}))
    innocent += [pool.submit(WorkerTask(tasks.echo, {"value": number})) for number in range(4, 8)]
    assert [handle.outcome().value for handle in innocent] == list(range(8))
    assert [handle.outcome().attempts for handle in innocent] == [1] * 8
    assert stray.outcome().ending is Ending.LOST
    assert "wrote into the channel" in stray.outcome().message


def test_a_task_that_closes_its_channel_is_lost_alone(pool: LocalPool) -> None:
    closing = pool.submit(WorkerTask(tasks.close_everything))
    assert pool.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1
    assert closing.outcome().ending is Ending.LOST


def test_a_copy_of_a_worker_that_a_task_has_forked_returns_nothing(single: LocalPool) -> None:
    before = single.submit(WorkerTask(os.getpid)).outcome().value
    assert single.submit(WorkerTask(tasks.fork_and_return)).outcome().value == before
    handles = [single.submit(WorkerTask(tasks.echo, {"value": number})) for number in range(10)]
    assert [handle.outcome().value for handle in handles] == list(range(10))


def test_a_task_over_its_memory_cap_ends_so(pool: LocalPool) -> None:
    hog = {"num_bytes": 64 * MIB}
    outcome = pool.submit(WorkerTask(tasks.allocate, hog, memory_bytes=32 * MIB)).outcome()
    assert outcome.ending is Ending.MEMORY
    assert outcome.attempts == 2
    assert outcome.message != ""
    within = pool.submit(WorkerTask(tasks.allocate, hog, memory_bytes=160 * MIB))
    assert within.outcome().value == 64 * MIB


def test_the_memory_of_tensors_is_capped_too(with_torch: LocalPool) -> None:
    hog = {"num_bytes": 64 * MIB}
    outcome = with_torch.submit(WorkerTask(torch_tasks.allocate, hog, memory_bytes=32 * MIB)).outcome()
    assert outcome.ending is Ending.MEMORY
    within = with_torch.submit(WorkerTask(torch_tasks.allocate, hog, memory_bytes=96 * MIB))
    assert within.outcome().value == 64 * MIB


def test_a_cap_ends_with_its_task(single: LocalPool) -> None:
    assert single.submit(WorkerTask(tasks.echo, {"value": 1}, memory_bytes=32 * MIB)).outcome().is_done
    free = single.submit(WorkerTask(tasks.allocate, {"num_bytes": 64 * MIB}))
    assert free.outcome().value == 64 * MIB


@pytest.mark.parametrize(
    ("how", "cap_bytes", "ending"),
    [
        ("read-only", 8 * MIB, Ending.DONE),
        ("safetensors", 8 * MIB, Ending.MEMORY),
        ("safetensors", 24 * MIB, Ending.DONE),
    ],
)
def test_only_private_maps_of_files_count_against_the_cap(
    with_torch: LocalPool, tmp_path: Path, how: str, cap_bytes: int, ending: Ending
) -> None:
    save_file({"big": torch.ones(4 * MIB)}, tmp_path / "big.safetensors")
    arguments = {"file": tmp_path / "big.safetensors", "how": how}
    outcome = with_torch.submit(
        WorkerTask(torch_tasks.sum_mapped, arguments, memory_bytes=cap_bytes)
    ).outcome()
    assert outcome.ending is ending, outcome.message


def test_a_waiting_task_is_canceled_without_ever_running(
    single: LocalPool, pipe: Path, tmp_path: Path
) -> None:
    running = single.submit(WorkerTask(tasks.say_and_hang, {"pipe": pipe}))
    worker = int(pipe.read_text())
    waiting = single.submit(WorkerTask(tasks.crash_once, {"marker": tmp_path / "marker"}))
    waiting.cancel()
    assert waiting.outcome().ending is Ending.CANCELED
    assert waiting.outcome().attempts == 0
    assert not running.wait(0.0)
    assert not running.wait(0.01)
    running.cancel()
    assert running.outcome().ending is Ending.CANCELED
    wait_for_death(worker)
    assert single.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().is_done
    assert not (tmp_path / "marker").exists()


def test_closing_cancels_what_runs_and_wakes_who_waits(pipe: Path) -> None:
    pool = LocalPool(1, tasks.PRELOAD)
    handle = pool.submit(WorkerTask(tasks.say_and_hang, {"pipe": pipe}))
    woken: list[Ending] = []
    thread = threading.Thread(target=lambda: woken.append(handle.outcome().ending))
    thread.start()
    pipe.read_text()
    pool.close()
    assert handle.outcome().ending is Ending.CANCELED
    assert "closed" in handle.outcome().message
    thread.join(60.0)
    assert woken == [Ending.CANCELED]


def test_crashed_workers_are_buried(pool: LocalPool) -> None:
    for _ in range(3):
        pool.submit(WorkerTask(tasks.crash, {"how": "exit"})).outcome()
    supervisor = pool.submit(WorkerTask(os.getppid)).outcome().value
    for child in children_of(supervisor):
        assert "State:\tZ" not in Path(f"/proc/{child}/status").read_text()


def test_when_the_supervisor_is_killed_its_tasks_are_lost_and_the_pool_goes_on(
    single: LocalPool, pipe: Path
) -> None:
    supervisor = single.submit(WorkerTask(os.getppid)).outcome().value
    running = single.submit(WorkerTask(tasks.say_and_hang, {"pipe": pipe}))
    worker = int(pipe.read_text())
    os.kill(supervisor, signal.SIGKILL)
    assert running.outcome().ending is Ending.LOST
    assert "supervisor of the workers was killed by SIGKILL" in running.outcome().message
    wait_for_death(worker)
    assert single.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1


def test_what_the_trainer_writes_into_the_channel_costs_the_tasks_at_work_and_not_the_pool() -> None:
    pool = LocalPool(1, tasks.PRELOAD)
    hanging = pool.submit(WorkerTask(tasks.hang))
    os.write(pool._line.channel.fileno(), b"hello")
    assert hanging.outcome().ending is Ending.LOST
    assert "exit code 1" in hanging.outcome().message
    assert pool.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1
    pool.close()


def test_a_supervisor_that_is_stopped_does_not_keep_a_pool_from_closing_or_its_processes_alive() -> None:
    pool = LocalPool(1, tasks.PRELOAD)
    around = pool.submit(WorkerTask(tasks.surroundings)).outcome().value
    os.kill(around["parent"], signal.SIGSTOP)
    pool.close()
    wait_for_death(around["pid"])
    wait_for_death(around["parent"])


def test_imports_that_fail_lose_the_task_with_a_message() -> None:
    pool = LocalPool(1, preload=("no_such_module_anywhere",))
    outcome = pool.submit(WorkerTask(tasks.echo, {"value": 1})).outcome()
    assert outcome.ending is Ending.LOST
    assert "exit code 1" in outcome.message
    pool.close()


def test_messages_larger_than_every_buffer_get_through_both_ways(pool: LocalPool) -> None:
    big = np.arange(50_000, dtype=np.float64)
    given = [{"numbers": [], "array": 2 * (big + number)} for number in range(8)]
    handles = [pool.submit(WorkerTask(tasks.halved, each)) for each in given]
    assert [handle.outcome().value.array[0] for handle in handles] == list(range(8))
    assert handles[3].outcome().value.array.tolist() == (big + 3).tolist()


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
    around = pool.submit(WorkerTask(tasks.surroundings)).outcome().value
    assert around["niceness"] == min(os.nice(0) + 10, 19)
    assert around["oom_score"] == 900
    assert around["threads"] == 1
    assert around["core_bytes"] == 0
    assert around["main"] is None
    assert os.getpgid(around["parent"]) != os.getpgid(0)  # ctrl-C at the terminal goes to the trainer alone
    assert os.getsid(around["pid"]) == os.getsid(0)  # niceness counts within a session only
    assert sum(file.startswith("socket:") for file in around["open_files"]) == 1


def test_a_worker_with_torch_has_one_thread(with_torch: LocalPool) -> None:
    assert with_torch.submit(WorkerTask(torch_tasks.num_threads)).outcome().value == 1
    assert with_torch.submit(WorkerTask(tasks.surroundings)).outcome().value["threads"] == 1


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
    assert outcome.ending is Ending.TIMEOUT
    assert outcome.value is None
    assert "60" in outcome.message


def test_a_fork_of_the_trainer_can_neither_end_the_pool_nor_use_it(single: LocalPool, pipe: Path) -> None:
    running = single.submit(WorkerTask(tasks.say_and_hang, {"pipe": pipe}))
    pipe.read_text()
    child = os.fork()
    if child == 0:
        running.cancel()
        single.close()
        for ask in (running.outcome, lambda: single.submit(WorkerTask(tasks.echo, {"value": 1}))):
            try:
                ask()
            except AnalysisError:
                continue
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not running.wait(0.0)
    running.cancel()
    assert single.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1
