"""A sharded save at every failing call and every power cut: what was acknowledged before is there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from esper.checkpoint import CheckpointStore, FaultyStorage, Storage, load_sharded, save_sharded
from esper.errors import CheckpointError
from tests.checkpoint.runs import content, debris, holds, open_store
from tests.faults.disk import write_tree
from tests.faults.power import RecordingStorage


def state(value: float) -> dict[str, Any]:
    return {"w": torch.full((4, 3), value), "told": {"step": value}}


def save_both(store: CheckpointStore, storage: Storage) -> None:
    """The store's calls and those of the rank are one sequence: it is one process."""
    save_sharded(store, 2, 0, state(2.0), storage=storage)


def is_sharded(store: CheckpointStore) -> bool:
    found = store.latest()
    if found is None or found.step != 2:
        return False
    loaded = state(0.0)
    load_sharded(found, loaded)
    return torch.equal(loaded["w"], state(2.0)["w"]) and loaded["told"] == {"step": 2.0}


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_failure_at_any_call_leaves_what_there_was(tmp_path: Path, error: str) -> None:
    for number in range(1, 99):
        storage = FaultyStorage(0, "EIO" if error == "EIO" else "ENOSPC", lasting=error == "ENOSPC")
        with open_store(tmp_path / str(number), storage=storage) as store:
            old = store.save(1, 0, content(1))
            storage.fail_at = len(storage.calls) + number
            told = ""
            try:
                save_both(store, storage)
            except CheckpointError as failure:
                told = str(failure)
            assert is_sharded(store) or (error in told and store.latest() == old)
            if not storage.fired:
                assert number > 12
                assert told == ""
                return
        with open_store(tmp_path / str(number)) as store:
            assert debris(store.run_dir) == []
            assert store.latest() == old or is_sharded(store)
    raise AssertionError("a save made more system calls than expected")


def test_no_power_cut_loses_what_was_acknowledged(tmp_path: Path) -> None:
    storage = RecordingStorage(tmp_path / "recorded")
    storage.root.mkdir()
    with open_store(storage.root / "run", storage=storage, encrypt_weights=True) as store:
        store.save(1, 0, content(1))
        storage.states.clear()
        storage.acknowledged = "1"
        save_both(store, storage)
        storage.acknowledged = "2"
        store.pin(store.catalog.at(2), "x")
    seen = {acknowledged + repr(tree): (acknowledged, tree) for acknowledged, tree in storage.states}
    assert len(seen) > 40
    for acknowledged, tree in seen.values():
        write_tree(tree, tmp_path / "disk")
        with open_store(tmp_path / "disk" / "run") as store:
            assert debris(store.run_dir) == []
            found = store.latest()
            assert found is not None
            assert is_sharded(store) or (acknowledged == "1" and holds(found, 1))
        shutil.rmtree(tmp_path / "disk")
