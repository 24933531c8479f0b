"""Tensors in a file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from esper.checkpoint.tensor_file import (
    MAX_HEADER_BYTES,
    TYPE_NAMES,
    Layout,
    Slot,
    file_pieces,
    lay_out,
    map_tensors,
    tensor_bytes,
)
from esper.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Any bits, nan and infinities among them."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    count = torch.tensor(shape).prod().int().item() if shape else 1
    width = torch.empty((), dtype=dtype).element_size()
    raw = torch.randint(0, 256, (int(count) * width,), generator=generator, dtype=torch.uint8)
    return raw.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path.write_bytes(b"".join(bytes(piece) for piece in file_pieces(tensors)))
    return path


shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
specifications = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
    st.tuples(st.sampled_from(list(TYPE_NAMES)), shapes, st.integers(0, 99)),
    max_size=6,
)


@given(specifications)
def test_every_bit_of_every_type_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    specification: dict[str, tuple[torch.dtype, tuple[int, ...], int]],
) -> None:
    tensors = {name: random_tensor(*what) for name, what in specification.items() if name != "__metadata__"}
    path = write(tmp_path_factory.mktemp("t") / "t.safetensors", tensors)
    mapped = map_tensors(path)
    assert set(mapped) == set(tensors)
    for name, tensor in tensors.items():
        assert mapped[name].dtype == tensor.dtype
        assert mapped[name].shape == tensor.shape
        assert bytes(tensor_bytes(mapped[name])) == bytes(tensor_bytes(tensor))


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.tensor(7), "c": torch.zeros(0, 2).half()}
    loaded = load_file(write(tmp_path / "t.safetensors", tensors))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_every_tensor_is_aligned_to_its_type() -> None:
    tensors = {
        "a": torch.zeros(3, dtype=torch.uint8),
        "b": torch.zeros(3).double(),
        "c": torch.zeros(5).half(),
    }
    layout = lay_out(tensors)
    assert [slot.name for slot in layout.slots] == ["b", "c", "a"]
    assert len(layout.header) % 8 == 0
    assert all(slot.start % slot.dtype.itemsize == 0 for slot in layout.slots)
    assert layout.data_bytes == 24 + 10 + 3
    assert Layout(()).data_bytes == 0


def test_writing_to_a_mapped_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "t.safetensors", {"a": torch.zeros(4)})
    map_tensors(path)["a"].fill_(1.0)
    assert map_tensors(path)["a"].sum() == 0


def test_only_the_named_tensors_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "t.safetensors", {"a": torch.zeros(4), "b": torch.ones(2)})
    assert list(map_tensors(path, ["b"])) == ["b"]
    with pytest.raises(CheckpointMissing, match=r"no tensor 'z'.*a, b"):
        map_tensors(path, ["a", "z"])


def test_views_and_conjugates_are_written_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    path = write(tmp_path / "t.safetensors", {"t": base.T, "neg": torch.complex(base, base).conj().imag})
    mapped = map_tensors(path)
    assert torch.equal(mapped["t"], base.T)
    assert torch.equal(mapped["neg"], -base)


def test_a_single_element_is_written_whatever_its_strides_are() -> None:
    for one in (torch.tensor(5), torch.tensor(5).expand(1), torch.tensor(5).expand(1, 1)):
        assert bytes(tensor_bytes(one)) == (5).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.zeros(2, 2).to_sparse(), "sparse_coo"),
        (torch.zeros(2, device="meta"), "meta device"),
        (torch.zeros(2, dtype=torch.complex64), "type torch.complex64"),
    ],
)
def test_a_tensor_that_cannot_be_stored_is_named(tensor: torch.Tensor, says: str) -> None:
    with pytest.raises(CheckpointError, match=rf"'x\.y' cannot be stored: it .*{says}"):
        lay_out({"x.y": tensor})


@pytest.mark.parametrize(
    ("name", "says"), [("__metadata__", "keeps for itself"), ("half \ud800", "a lone surrogate")]
)
def test_a_name_that_safetensors_would_not_read_back_is_refused(name: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        lay_out({name: torch.zeros(1)})


def test_a_header_that_is_too_large_is_refused_when_writing() -> None:
    slot = Slot("n" * (MAX_HEADER_BYTES + 1), torch.uint8, (0,), 0, 0)
    with pytest.raises(CheckpointError, match="several files"):
        _ = Layout((slot,)).header


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"abc",
        struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}",
        struct.pack("<Q", 2) + b"xx",
        struct.pack("<Q", 400) + b"{}",
        struct.pack("<Q", 66)
        + json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode().ljust(66),
    ],
)
def test_what_is_no_tensor_file_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(raw)
    with pytest.raises(CheckpointCorrupt, match="no safetensors file"):
        map_tensors(path)
