"""Names for what lies on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.checkpoint.references import Rejection
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointMissing
from tests.checkpoint.runs import content


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
