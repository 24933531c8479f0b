"""Files that prove themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import blake3
import pytest
import torch

from esper.checkpoint.references import FileRef, Rejection, load_tensors
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointCorrupt, CheckpointMissing
from tests.checkpoint.runs import content, flip


def reference(path: Path, raw: bytes) -> FileRef:
    path.write_bytes(raw)
    return FileRef(path, len(raw), blake3.blake3(raw).hexdigest())


@pytest.mark.parametrize("raw", [b"", b"some bytes"])
def test_a_good_file_is_read(tmp_path: Path, raw: bytes) -> None:
    file = reference(tmp_path / "f", raw)
    assert file.problem() is None
    assert file.verify() == file.path
    assert file.read_bytes() == raw


def test_altered_cut_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    file = reference(tmp_path / "f", b"some bytes")
    flip(file.path, 4)
    with pytest.raises(CheckpointCorrupt, match="other bytes than were saved"):
        file.read_bytes()
    file.path.write_bytes(b"some")
    with pytest.raises(CheckpointCorrupt, match="has 4 bytes instead of 10"):
        file.verify()
    file.path.unlink()
    for read in (file.verify, file.read_bytes):
        with pytest.raises(CheckpointCorrupt, match="cannot be read: No such file"):
            read()


def test_a_file_that_heals_while_it_is_read_is_still_refused(tmp_path: Path) -> None:
    file = reference(tmp_path / "f", b"some bytes")
    shrunk = replace(file, blake3=blake3.blake3(b"other text").hexdigest())

    class Healing(FileRef):
        def verify(self) -> Path:
            return self.path

    with pytest.raises(CheckpointCorrupt, match="changed while it was read"):
        Healing(shrunk.path, shrunk.size, shrunk.blake3).read_bytes()


def test_a_worker_maps_only_what_it_needs_and_holds_no_key(store: CheckpointStore) -> None:
    file = store.save(1, 0, content(1)).file("model.safetensors")
    assert list(load_tensors(file, ["n"])) == ["n"]
    assert torch.equal(load_tensors(file)["w"], torch.full((5, 3), 1.0))
    flip(file.path, file.size - 1)
    with pytest.raises(CheckpointCorrupt):
        load_tensors(file, ["n"])


def test_a_checkpoint_names_its_files(store: CheckpointStore) -> None:
    saved = store.save(4, 2, content(4))
    assert (saved.step, saved.epoch, saved.created_seconds) == (4, 2, 1.5)
    assert set(saved.files) == {"note.bin", "model.safetensors"}
    assert saved.size_bytes == sum(file.path.stat().st_size for file in saved.files.values())
    assert saved == store.latest()
    assert {saved: 1}[store.catalog.at(4)] == 1
    assert saved != "step 4"
    with pytest.raises(CheckpointMissing, match=r"no file 'x'.*model.safetensors, note.bin"):
        saved.file("x")


def test_a_rejection_reads_as_a_sentence(tmp_path: Path) -> None:
    assert str(Rejection(tmp_path / "step-000000001", "it is cut")) == "step-000000001: it is cut"
