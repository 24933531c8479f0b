"""Tensors that are mapped one after the other hold what was stored, also after they were let go of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper.checkpoint.mapped import MappedTensors
from esper.checkpoint.tensor_file import file_pieces
from esper.errors import CheckpointCorrupt


def stored(path: Path, tensors: dict[str, torch.Tensor]) -> MappedTensors:
    path.write_bytes(b"".join(file_pieces(tensors)))
    return MappedTensors(path)


def test_every_type_and_shape_comes_back(tmp_path: Path) -> None:
    tensors = {
        "wide": torch.randn(300, 700),
        "half": torch.randn(5, 3).to(torch.bfloat16),
        "number": torch.tensor(7),
        "mask": torch.rand(9) > 0.5,
        "none": torch.zeros(0, 4),
    }
    mapped = stored(tmp_path / "file", tensors)
    assert set(mapped) == set(tensors)
    assert len(mapped) == len(tensors)
    for _ in range(2):
        for name, tensor in tensors.items():
            assert mapped[name].dtype == tensor.dtype
            assert torch.equal(mapped[name], tensor)
            mapped.let_go(mapped[name])


def test_what_is_let_go_of_leaves_the_memory_of_the_process(tmp_path: Path) -> None:
    mapped = stored(tmp_path / "file", {"a": torch.ones(4 << 20), "b": torch.ones(4 << 20)})

    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().split(str(tmp_path / "file"))[1:]
        return sum(int(part.split("Rss:")[1].split()[0]) for part in lines)

    assert mapped["a"].sum() == 4 << 20
    before = resident()
    mapped.let_go(mapped["a"])
    assert resident() <= before - (15 << 10)
    mapped.let_go(torch.ones(3))  # one of another file stays as it is


@pytest.mark.parametrize("content", [b"", b"12345678{}", (5).to_bytes(8, "little") + b"[1,2]"])
def test_what_is_no_tensor_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CheckpointCorrupt, match="no safetensors file"):
        MappedTensors(tmp_path / "file")
