"""Whose run directory it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.identity import read_identity
from esper.checkpoint.layout import former_name, step_name
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointError
from tests.checkpoint.runs import OTHER_RING, RING, content, flip, names, open_store


def test_a_directory_of_another_model_is_refused_by_name(run_dir: Path) -> None:
    open_store(run_dir, model="resnet8").close()
    with pytest.raises(CheckpointError, match="checkpoints of 'resnet8', and now 'vit' wants"):
        open_store(run_dir, model="vit")
    with open_store(run_dir, model=None) as store:
        assert store.identity.model == "resnet8"


def test_a_directory_without_a_name_says_so(run_dir: Path) -> None:
    with open_store(run_dir, model=None) as store:
        assert store.identity.model == "unnamed"


@pytest.mark.parametrize("damage", ["flip", "remove", "cut"])
def test_a_damaged_identity_is_repaired_from_the_checkpoints(run_dir: Path, damage: str) -> None:
    with open_store(run_dir) as store:
        store.save(1, 0, content(1))
        before = store.identity
    path = run_dir / "checkpoints" / "RUN.json"
    if damage == "flip":
        flip(path, 20)
    elif damage == "remove":
        path.unlink()
    else:
        path.write_bytes(b"")
    with open_store(run_dir) as store:
        assert store.identity == before
        latest = store.latest()
        assert latest is not None
        assert latest.step == 1
    assert read_identity(run_dir, RING) == before


def test_an_empty_directory_has_no_identity(tmp_path: Path) -> None:
    assert read_identity(tmp_path, RING) is None


def test_lost_keys_are_told_and_nothing_is_touched(run_dir: Path) -> None:
    with open_store(run_dir) as store:
        store.save(1, 0, content(1))
    with pytest.raises(CheckpointError, match=r"key 'k-000102030405', which is not in this key ring"):
        CheckpointStore(run_dir, keyring=OTHER_RING, model="net")
    with open_store(run_dir) as store:
        assert store.latest() is not None


@pytest.mark.parametrize("has_identity", [True, False])
def test_an_older_copy_of_the_key_ring_is_refused_and_nothing_is_touched(
    run_dir: Path, has_identity: bool
) -> None:
    with open_store(run_dir) as store:
        store.save(1, 0, content(1))
    rotated = RING.add()
    rotated = rotated.promote(rotated.keys[-1].id)
    with CheckpointStore(run_dir, keyring=rotated) as store:
        store.save(2, 0, content(2))
    identity = run_dir / "checkpoints" / "RUN.json"
    if not has_identity:
        identity.unlink()
    before = names(identity.parent)
    with pytest.raises(CheckpointError, match=r"an older copy\. Nothing was changed\. Put the newest copy"):
        open_store(run_dir)
    assert names(identity.parent) == before
    with CheckpointStore(run_dir, keyring=rotated) as store:
        assert [ref.step for ref in store.list().checkpoints] == [1, 2]


def test_a_directory_in_which_nothing_verifies_is_refused(run_dir: Path) -> None:
    with open_store(run_dir) as store:
        saved = store.save(1, 0, content(1))
    flip(saved.path / "MANIFEST.json", 30)
    (run_dir / "checkpoints" / "RUN.json").unlink()
    with pytest.raises(CheckpointError, match=r"None of the 1 checkpoints .* can be verified"):
        open_store(run_dir)


def test_a_damaged_identity_is_set_aside(run_dir: Path) -> None:
    open_store(run_dir).close()
    path = run_dir / "checkpoints" / "RUN.json"
    flip(path, 20)
    damaged = path.read_bytes()
    open_store(run_dir).close()
    (aside,) = path.parent.glob(".aside-RUN.json-*")
    assert aside.read_bytes() == damaged


def copied(source: CheckpointStore, steps: tuple[int, ...], target: Path) -> None:
    """Copies checkpoints of one run into another, as a wrong rsync does."""
    for step in steps:
        path = source.catalog.at(step).path
        shutil.copytree(path, target / "checkpoints" / path.name)


def test_a_reader_believes_only_the_run_of_the_directory(run_dir: Path, tmp_path: Path) -> None:
    with open_store(tmp_path / "other") as other, open_store(run_dir) as store:
        saved = store.save(1, 0, content(1))
        other.save(2, 0, content(2))
        copied(other, (2,), run_dir)
        search = CheckpointCatalog(run_dir, RING).search()
    assert search.found == saved
    assert "saved by another run" in search.rejected[0].reason


@pytest.mark.parametrize(
    ("own", "foreign"), [((1,), (2,)), ((3, 4), (1,)), ((1, 2), (3, 4)), ((0, 5, 6), (7, 8))]
)
def test_without_an_identity_most_checkpoints_decide_and_the_oldest_of_as_many(
    run_dir: Path, tmp_path: Path, own: tuple[int, ...], foreign: tuple[int, ...]
) -> None:
    with open_store(tmp_path / "other") as other, open_store(run_dir) as store:
        for step in own:
            store.save(step, 0, content(step))
        for step in foreign:
            other.save(step, 0, content(step))
        copied(other, foreign, run_dir)
        before = store.identity
    (run_dir / "checkpoints" / "RUN.json").unlink()
    with open_store(run_dir) as store:
        assert store.identity == before
        latest = store.latest()
        assert latest is not None
        assert latest.step == max(own)
        again = store.save(9, 0, content(9))
        store.withdraw_after(store.catalog.at(max(own)))
        assert not again.path.exists()
    kept = {former_name(path) for path in (run_dir / "checkpoints").iterdir()}
    assert {step_name(step) for step in foreign if step > max(own)} <= kept


def test_a_rotated_ring_seals_the_identity_anew(run_dir: Path) -> None:
    with open_store(run_dir) as store:
        before = store.identity
    rotated = RING.add()
    rotated = rotated.promote(rotated.keys[-1].id)
    CheckpointStore(run_dir, keyring=rotated, model="net").close()
    assert read_identity(run_dir, rotated.disable(RING.primary.id)) == before
