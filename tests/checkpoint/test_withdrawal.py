"""Going back from outside of training leaves a record, or changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.ring_file import open_key_ring
from esper.checkpoint.store import CheckpointStore
from esper.checkpoint.withdrawal import withdraw, withdrawals
from esper.errors import CheckpointError


def saved(run: Path, steps: tuple[int, ...] = (10, 20, 30)) -> CheckpointStore:
    store = CheckpointStore(run, keyring=open_key_ring(run, create=True), clock=lambda: 1234.5)
    for step in steps:
        store.save(step, step // 10, {"weights.bin": b"w"})
    return store


def test_a_rollback_is_told_with_its_time_and_where_it_came_from(tmp_path: Path) -> None:
    with saved(tmp_path) as store:
        target = store.catalog.at(10)
        assert withdraw(store, target) == ("step-000000030", "step-000000020")
        ((found,), damaged) = withdrawals(store.catalog, target)
        assert not damaged
        assert (found.at_seconds, found.from_step, found.to_step) == (1234.5, 30, 10)
        assert found.deleted == ("step-000000030", "step-000000020")
        assert store.latest() == target


def test_a_second_one_is_told_after_the_first_and_none_where_nothing_is_later(tmp_path: Path) -> None:
    with saved(tmp_path, (10, 20)) as store:
        target = store.catalog.at(10)
        withdraw(store, target)
        assert withdraw(store, target) == ()
        store.save(40, 4, {"weights.bin": b"w"})
        withdraw(store, target)
        assert [past.from_step for past in withdrawals(store.catalog, target)[0]] == [20, 40]


def test_a_damaged_record_is_told_as_damaged(tmp_path: Path) -> None:
    with saved(tmp_path) as store:
        target = store.catalog.at(20)
        withdraw(store, target)
        (target.path / "rollback-01" / "rollback.json").write_bytes(b"{}")
        found, (problem,) = withdrawals(store.catalog, target)
        assert not found
        assert "rollback-01" in problem


def test_nothing_is_deleted_when_the_record_cannot_be_stored(tmp_path: Path) -> None:
    saved(tmp_path).close()
    storage = FaultyStorage(10**9, "ENOSPC", lasting=True)
    with CheckpointStore(tmp_path, keyring=open_key_ring(tmp_path), storage=storage) as store:
        storage.fail_at = len(storage.calls) + 1
        with pytest.raises(CheckpointError, match="the disk is full"):
            withdraw(store, store.catalog.at(10))
        assert [ref.step for ref in store.list().checkpoints] == [10, 20, 30]
