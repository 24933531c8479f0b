"""What every pool does alike, so that code tried without processes works with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from esper.errors import AnalysisError, ConfigError
from esper.workers import Ending, InlinePool, LocalPool, WorkerPool, WorkerTask
from tests.workers import tasks


@pytest.fixture(params=["inline", "local"], scope="module")
def pool(request: pytest.FixtureRequest) -> Iterator[WorkerPool]:
    opened: WorkerPool = InlinePool() if request.param == "inline" else LocalPool(1, tasks.PRELOAD)
    yield opened
    opened.close()


def test_a_task_returns_its_value(pool: WorkerPool) -> None:
    outcome = pool.submit(WorkerTask(tasks.echo, {"value": [1, "two", None, 2.5]})).outcome()
    assert outcome.is_done
    assert outcome.value == [1, "two", None, 2.5]
    assert outcome.message == ""
    assert outcome.attempts == 1


def test_a_function_may_be_given_by_name(pool: WorkerPool) -> None:
    assert pool.submit(WorkerTask("tests.workers.tasks:echo", {"value": 7})).outcome().value == 7


def test_references_go_in_and_dataclasses_with_arrays_come_out(pool: WorkerPool, tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", a=np.ones(4), b=np.full((2, 3), 2.0))
    shard = tasks.Shard(tmp_path / "weights.npz", ("a", "b"))
    outcome = pool.submit(WorkerTask(tasks.sums, {"shard": shard})).outcome()
    assert isinstance(outcome.value, tasks.Sums)
    assert outcome.value.by_name == {"a": 4.0, "b": 12.0}
    assert outcome.value.array.tolist() == [4.0, 12.0]


def test_outcomes_belong_to_their_tasks(pool: WorkerPool) -> None:
    handles = [pool.submit(WorkerTask(tasks.echo, {"value": number})) for number in range(50)]
    assert [handle.outcome().value for handle in reversed(handles)] == list(reversed(range(50)))


def test_an_error_is_a_value_that_says_what_and_where_and_is_not_tried_again(pool: WorkerPool) -> None:
    outcome = pool.submit(WorkerTask(tasks.fail, {"text": "no such layer"})).outcome()
    assert outcome.ending is Ending.FAILED
    assert "ValueError: no such layer" in outcome.message
    assert "tasks.py" in outcome.message
    assert outcome.attempts == 1
    assert outcome.value is None


def test_a_task_that_leaves_by_sys_exit_has_failed(pool: WorkerPool) -> None:
    outcome = pool.submit(WorkerTask(tasks.leave)).outcome()
    assert outcome.ending is Ending.FAILED
    assert "SystemExit: 3" in outcome.message


def test_wrong_arguments_are_a_failure(pool: WorkerPool) -> None:
    outcome = pool.submit(WorkerTask(tasks.echo, {"values": 1})).outcome()
    assert outcome.ending is Ending.FAILED
    assert "values" in outcome.message


@pytest.mark.parametrize("name", ["no.such.module:f", "tests.workers.tasks:no_such_function"])
def test_a_name_that_leads_nowhere_is_a_failure(pool: WorkerPool, name: str) -> None:
    outcome = pool.submit(WorkerTask(name)).outcome()
    assert outcome.ending is Ending.FAILED
    assert "no" in outcome.message


def test_a_result_that_cannot_come_back_is_a_failure_and_says_what_it_holds(pool: WorkerPool) -> None:
    outcome = pool.submit(WorkerTask(tasks.unsendable)).outcome()
    assert outcome.ending is Ending.FAILED
    assert "object: expected what JSON can hold, found a set" in outcome.message


def test_a_result_that_cannot_be_made_again_here_is_a_failure(pool: WorkerPool, tmp_path: Path) -> None:
    outcome = pool.submit(WorkerTask(tasks.once, {"marker": tmp_path / "marker"})).outcome()
    assert outcome.ending is Ending.FAILED
    assert outcome.value is None
    assert "cannot be read: FileExistsError" in outcome.message
    assert pool.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1


def test_an_argument_that_cannot_be_sent_is_refused_at_once(pool: WorkerPool) -> None:
    with pytest.raises(ConfigError, match=r"found a set.*reference"):
        pool.submit(WorkerTask(tasks.echo, {"value": {1}}))


def test_a_function_that_no_worker_can_find_is_refused_at_once(pool: WorkerPool) -> None:
    with pytest.raises(ConfigError, match="top of a module"):
        pool.submit(WorkerTask(lambda: 1))


def test_a_task_that_is_over_stays_over(pool: WorkerPool) -> None:
    handle = pool.submit(WorkerTask(tasks.echo, {"value": 1}))
    first = handle.outcome()
    handle.cancel()
    assert handle.wait(0.0)
    assert handle.outcome() == first


def test_values_go_both_ways_as_the_function_is_annotated(pool: WorkerPool) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1]
    given = {"numbers": [3, float("inf")], "array": array}
    back = pool.submit(WorkerTask(tasks.halved, given)).outcome().value
    assert isinstance(back, tasks.Halves)
    assert back.numbers == [1.5, float("inf")]
    assert back.array is not None
    np.testing.assert_array_equal(back.array, array / 2)


def test_an_argument_of_another_type_than_annotated_is_refused_at_once(pool: WorkerPool) -> None:
    with pytest.raises(ConfigError, match=r"list\[float\]\[1\]: expected a number, found 'two'"):
        pool.submit(WorkerTask(tasks.halved, {"numbers": [1.0, "two"]}))


@pytest.mark.parametrize("make", [InlinePool, lambda: LocalPool(1, tasks.PRELOAD)])
def test_a_closed_pool_takes_no_task_and_closes_twice(make: type[InlinePool]) -> None:
    pool = make()
    pool.close()
    pool.close()
    with pytest.raises(AnalysisError, match="closed"):
        pool.submit(WorkerTask(tasks.echo, {"value": 1}))
