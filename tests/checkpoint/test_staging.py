"""Staging buffers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from esper.checkpoint.content import FileContent, Staged, stream
from esper.checkpoint.staging import StagingBuffers
from esper.checkpoint.tensor_file import file_pieces

TENSORS = {
    "a": torch.randn(3, 4),
    "image": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "step": torch.tensor(5),
    "empty": torch.zeros(0, 3),
    "half": torch.randn(5).bfloat16(),
    "flag": torch.tensor([True, False]),
}


def bytes_of(content: FileContent) -> bytes:
    return b"".join(bytes(piece) for piece in stream(content).pieces)


def test_what_is_staged_is_the_file_that_would_be_written() -> None:
    staged = StagingBuffers().stage({"t": TENSORS, "raw": b"abc", "path": Path("x")})
    assert bytes_of(staged["t"]) == b"".join(bytes(piece) for piece in file_pieces(TENSORS))
    assert (staged["raw"], staged["path"]) == (b"abc", Path("x"))


def test_later_changes_do_not_reach_what_was_staged() -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    staged = StagingBuffers().stage({"t": {"w": weight}})
    before = bytes_of(staged["t"])
    with torch.no_grad():
        weight.add_(1)
    assert bytes_of(staged["t"]) == before


def address(staged: dict[str, FileContent]) -> int:
    content = staged["t"]
    assert isinstance(content, Staged)
    return torch.frombuffer(content.parts[1], dtype=torch.uint8).data_ptr()


def test_buffers_are_reused_until_the_shapes_change() -> None:
    buffers = StagingBuffers()
    buffers.reserve({"t": {"w": torch.zeros(1000)}, "raw": b"x"})
    first = address(buffers.stage({"t": {"w": torch.zeros(1000)}}))
    assert address(buffers.stage({"t": {"w": torch.ones(1000)}})) == first
    staged = buffers.stage({"t": {"w": torch.ones(10)}})
    assert bytes_of(staged["t"]).endswith(torch.ones(10).numpy().tobytes())


def test_a_file_without_tensors_is_staged() -> None:
    assert bytes_of(StagingBuffers().stage({"t": {}})["t"]) == b"".join(bytes(p) for p in file_pieces({}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_of_a_gpu_are_staged_in_pinned_memory() -> None:
    tensors = {"w": torch.randn(1000, device="cuda"), "cpu": torch.randn(3)}
    staged = StagingBuffers().stage({"t": tensors})
    assert bytes_of(staged["t"]) == bytes_of(tensors)
