"""What may be put into a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper.checkpoint.content import FileContent, Staged, stream
from esper.checkpoint.tensor_file import map_tensors


@pytest.mark.parametrize("data", [b"", b"some bytes"])
def test_bytes_files_and_staged_parts_come_out_as_they_are(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "source"
    path.write_bytes(data)
    contents: list[FileContent] = [data, path, Staged((memoryview(data[:3]), memoryview(data[3:])))]
    for content in contents:
        assert b"".join(bytes(piece) for piece in stream(content).pieces) == data


def test_tensors_become_a_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(b"".join(bytes(piece) for piece in stream({"a": torch.arange(3)}).pieces))
    assert map_tensors(path)["a"].tolist() == [0, 1, 2]


def test_staged_parts_know_their_size() -> None:
    assert Staged((memoryview(b"abc"), memoryview(b"de"))).size == 5
