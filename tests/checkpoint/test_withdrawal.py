"""Going back from outside of training is written down first, or changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.checkpoint.ring_file import open_key_ring
from esper.checkpoint.store import CheckpointStore
from esper.checkpoint.withdrawal import withdraw
from esper.errors import CheckpointError
from esper.nissa import acts


def saved(run: Path, steps: tuple[int, ...] = (10, 20, 30)) -> CheckpointStore:
    store = CheckpointStore(run, keyring=open_key_ring(run, create=True), clock=lambda: 1234.5)
    for step in steps:
        store.save(step, step // 10, {"weights.bin": b"w"})
    return store


def test_a_rollback_is_told_with_where_it_came_from(tmp_path: Path) -> None:
    with saved(tmp_path) as store:
        target = store.catalog.at(10)
        heard: list[tuple[acts.Withdrawn, int]] = []

        def told(act: acts.Withdrawn) -> None:
            heard.append((act, len(store.list().checkpoints)))

        assert withdraw(store, target, told) == ("step-000000030", "step-000000020")
        (past,) = store.audit.told(acts.Withdrawn)
        assert (past.from_step, past.to_step) == (30, 10)
        assert past.deleted == ("step-000000030", "step-000000020")
        assert heard == [(past, 3)]  # before anything was deleted
        assert store.latest() == target


def test_a_second_one_is_told_after_the_first_and_none_where_nothing_is_later(tmp_path: Path) -> None:
    with saved(tmp_path, (10, 20)) as store:
        target = store.catalog.at(10)
        withdraw(store, target)
        assert withdraw(store, target) == ()
        store.save(40, 4, {"weights.bin": b"w"})
        withdraw(store, target)
        assert [past.from_step for past in store.audit.told(acts.Withdrawn)] == [20, 40]


def test_nothing_is_deleted_when_it_cannot_be_written_down(tmp_path: Path) -> None:
    with saved(tmp_path) as store:
        (tmp_path / "audit.sqlite").mkdir()
        with pytest.raises(CheckpointError, match=r"audit\.sqlite cannot be written"):
            withdraw(store, store.catalog.at(10))
        assert [ref.step for ref in store.list().checkpoints] == [10, 20, 30]
