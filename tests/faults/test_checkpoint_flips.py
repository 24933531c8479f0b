"""A flipped byte in any file of a checkpoint is noticed, and the checkpoint before it is used."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from esper.checkpoint import CheckpointStore, capture_trainer, load_trainer
from tests.checkpoint.runs import Training, content, holds, open_store


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return open_store(tmp_path / "run")


def trained(store: CheckpointStore) -> Path:
    """A good checkpoint and, after it, one of a real training run with a twin; the path of the later one."""
    store.save(1, 0, content(1))
    training = Training("AdamW")
    training.step()
    state = capture_trainer(training.model, training.optimizer, step=2, epoch=0)
    return store.save(2, 0, state.files(), blobs={"twin": store.put_blob("twin", os.urandom(5000))}).path


def falls_back(store: CheckpointStore, rejected: Path) -> bool:
    search = store.search()
    return (
        search.found is not None
        and holds(search.found, 1)
        and [rejection.path for rejection in search.rejected] == [rejected]
    )


_KEY_COPIES = range(32, 280)
"""Where an encrypted file holds its wrapped key, twice: either copy opens it."""


def loses_nothing(store: CheckpointStore, path: Path) -> bool:
    """Whether the checkpoint is found as if nothing had happened, and its training state can be read."""
    search = store.search()
    if search.found is None or search.found.path != path or search.rejected:
        return False
    return load_trainer(search.found).step == 2


def test_a_flip_at_any_sampled_position_of_any_file(store: CheckpointStore) -> None:
    path = trained(store)
    files = [*path.iterdir(), *(store.run_dir / "twin").iterdir()]
    assert len(files) == 5
    rng = random.Random(0)
    for file in files:
        raw = file.read_bytes()
        edges = [0, 1, 7, 8, len(raw) - 2, len(raw) - 1]
        for position in {*edges, *(rng.randrange(len(raw)) for _ in range(12))}:
            changed = bytearray(raw)
            changed[position] ^= 1 << rng.randrange(8)
            file.write_bytes(changed)
            if raw.startswith(b"esper-encrypted") and position in _KEY_COPIES:
                assert loses_nothing(store, path), (file.name, position)
            else:
                assert falls_back(store, path), (file.name, position)
        file.write_bytes(raw)
    assert store.search().rejected == ()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short by one": lambda raw: raw[:-1],
    "cut to half": lambda raw: raw[: len(raw) // 2],
    "emptied": lambda raw: b"",
    "longer by one": lambda raw: raw + b"\0",
    "zeros": lambda raw: bytes(len(raw)),
    "first page zero": lambda raw: bytes(min(4096, len(raw))) + raw[4096:],
    "halves swapped": lambda raw: raw[len(raw) // 2 :] + raw[: len(raw) // 2],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_of_a_whole_file(store: CheckpointStore, damage: str) -> None:
    path = trained(store)
    for file in path.iterdir():
        raw = file.read_bytes()
        file.write_bytes(DAMAGES[damage](raw))
        assert falls_back(store, path), file.name
        file.write_bytes(raw)


def test_a_missing_file_and_files_that_swapped_places(store: CheckpointStore) -> None:
    path = trained(store)
    for file in list(path.iterdir()):
        aside = path.parent / "aside"
        file.rename(aside)
        assert falls_back(store, path), file.name
        aside.rename(file)
    a, b = path / "model.safetensors", path / "optimizer.safetensors"
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    assert falls_back(store, path)


def test_files_and_manifest_of_an_earlier_checkpoint_do_not_pass(store: CheckpointStore) -> None:
    tensors = {"w": torch.zeros(4)}
    store.save(1, 0, content(1))
    old = store.save(2, 0, {"m.safetensors": tensors})
    new = store.save(3, 0, {"m.safetensors": {"w": torch.ones(4)}})
    for name in ("m.safetensors", "MANIFEST.json"):
        raw = (new.path / name).read_bytes()
        (new.path / name).write_bytes((old.path / name).read_bytes())
        assert store.latest() == old
        (new.path / name).write_bytes(raw)
    assert store.latest() == new
