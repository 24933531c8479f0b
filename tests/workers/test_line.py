"""Pools share the process that has done the imports, and each finds what the trainer is when it opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.workers import LocalPool, WorkerTask
from tests.workers import tasks
from tests.workers.processes import parent_of, wait_for_death


def zygote(pool: LocalPool) -> int:
    """Process id of the process from which a pool's supervisor was forked."""
    return parent_of(pool.submit(WorkerTask("os:getppid")).outcome().value)


def test_pools_share_a_process_that_has_imported_enough_for_them_and_it_ends_with_the_last() -> None:
    wave, same, less, more = (LocalPool(1, preload) for preload in [("wave",), ("wave",), (), tasks.PRELOAD])
    shared = zygote(wave)
    assert zygote(same) == shared
    assert zygote(less) != shared != zygote(more)  # there was an earlier one that had imported enough
    wave.close()
    assert zygote(same) == shared
    same.close()
    wait_for_death(shared)
    less.close()
    more.close()


def test_a_pool_has_the_folder_environment_and_search_path_of_the_moment_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_a_later_moment.py").write_text("def answer(): return 42")
    earlier = LocalPool(1, tasks.PRELOAD)
    earlier.submit(WorkerTask(tasks.surroundings)).outcome()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OF_THE_TEST", "later")
    monkeypatch.syspath_prepend(tmp_path)
    later = LocalPool(1, tasks.PRELOAD)
    assert zygote(later) == zygote(earlier)
    around = later.submit(WorkerTask(tasks.surroundings)).outcome().value
    assert (around["folder"], around["variable"]) == (str(tmp_path), "later")
    assert later.submit(WorkerTask("of_a_later_moment:answer")).outcome().value == 42
    around = earlier.submit(WorkerTask(tasks.surroundings)).outcome().value
    assert (around["folder"] != str(tmp_path), around["variable"]) == (True, None)
    earlier.close()
    later.close()


def test_workers_write_errors_where_the_trainer_did_when_their_pool_opened(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with capfd.disabled():
        earlier = LocalPool(1, tasks.PRELOAD)
        earlier.submit(WorkerTask(tasks.echo, {"value": 1})).outcome()
    later = LocalPool(1, tasks.PRELOAD)
    later.submit(WorkerTask(tasks.say_on_standard_error, {"text": "something went wrong"})).outcome()
    assert capfd.readouterr().err == "something went wrong"
    earlier.close()
    later.close()


def test_a_folder_that_is_gone_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    pool = LocalPool(1, tasks.PRELOAD)
    assert pool.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1
    pool.close()
