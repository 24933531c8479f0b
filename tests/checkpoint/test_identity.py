"""Whose run directory it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.checkpoint.identity import read_identity
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointError
from tests.checkpoint.runs import OTHER_RING, RING, content, flip, open_store


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
    with pytest.raises(CheckpointError, match=r"None of the 1 checkpoints .* with the key ring"):
        CheckpointStore(run_dir, keyring=OTHER_RING, model="net")
    with open_store(run_dir) as store:
        assert store.latest() is not None


def test_a_rotated_ring_seals_the_identity_anew(run_dir: Path) -> None:
    with open_store(run_dir) as store:
        before = store.identity
    rotated = RING.add()
    rotated = rotated.promote(rotated.keys[-1].id)
    CheckpointStore(run_dir, keyring=rotated, model="net").close()
    assert read_identity(run_dir, rotated.disable(RING.primary.id)) == before
