"""Tensors in a file: the safetensors layout, written from memory in one pass and mapped back without copying.

The library's own writer makes a second copy or hides its system calls; this one yields the bytes, so that
they are hashed, faulted and synced like every other file. Reading is the library's.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from esper.checkpoint.reading import open_regular
from esper.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing

MAX_HEADER_BYTES = 64 << 20
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8

TYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in the data part of the file, in bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Layout:
    """Where every tensor of a file lies. Larger element types come first, so that each is aligned."""

    slots: tuple[Slot, ...]

    @property
    def data_bytes(self) -> int:
        return self.slots[-1].end if self.slots else 0

    @cached_property
    def header(self) -> bytes:
        """Length and JSON header, as they stand before the data."""
        entries = {
            slot.name: {
                "dtype": TYPE_NAMES[slot.dtype],
                "shape": list(slot.shape),
                "data_offsets": [slot.start, slot.end],
            }
            for slot in self.slots
        }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _ALIGNMENT)
        if len(text) > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"A tensor file with {len(self.slots)} tensors needs a header of {len(text)} bytes; at most "
                f"{MAX_HEADER_BYTES} are read back. Store the tensors in several files."
            )
        return _LENGTH.pack(len(text)) + text


def lay_out(tensors: Mapping[str, torch.Tensor]) -> Layout:
    """Gives every tensor its place.

    Raises:
        CheckpointError: a tensor cannot be stored (its type, or that it is sparse or has no data), named.
    """
    for name, tensor in tensors.items():
        _check(name, tensor)
    order = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    slots, start = [], 0
    for name, tensor in order:
        end = start + tensor.numel() * tensor.element_size()
        slots.append(Slot(name, tensor.dtype, tuple(tensor.shape), start, end))
        start = end
    return Layout(tuple(slots))


def file_pieces(tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """The bytes of the file, tensor by tensor; a contiguous CPU tensor is not copied."""
    yield from laid_out_pieces(lay_out(tensors), tensors)


def laid_out_pieces(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """The same where it is known already where they lie."""
    yield memoryview(layout.header)
    for slot in layout.slots:
        yield tensor_bytes(tensors[slot.name])


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The elements in row-major order as bytes."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    # Torch calls a single element contiguous whatever its strides are, and a view wants a stride of 1.
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy().data


def map_tensors(path: Path, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Maps tensors of a file that was verified: pages are read when touched, writing to them is private.

    Args:
        path: a verified safetensors file.
        names: which tensors, or None for all.

    Raises:
        CheckpointCorrupt: it is no safetensors file, or its header is larger than Esper reads.
        CheckpointMissing: it holds no tensor of a name that was asked for.
    """
    with open_regular(path) as file:
        prefix = file.read(_LENGTH.size)
    if len(prefix) < _LENGTH.size or _LENGTH.unpack(prefix)[0] > MAX_HEADER_BYTES:
        raise CheckpointCorrupt(
            f"{path} is no safetensors file: its header is cut short or over {MAX_HEADER_BYTES} bytes."
        )
    try:
        with safe_open(path, framework="pt") as file:
            present = list(file.keys())
            wanted = present if names is None else list(names)
            for name in set(wanted) - set(present):
                raise CheckpointMissing(
                    f"{path} holds no tensor {name!r}. Its {len(present)} tensors begin with: "
                    f"{', '.join(sorted(present)[:8])}."
                )
            return {name: file.get_tensor(name) for name in wanted}
    except SafetensorError as error:
        raise CheckpointCorrupt(f"{path} is no safetensors file: {error}.") from error


def _check(name: str, tensor: torch.Tensor) -> None:
    found = None
    if tensor.layout is not torch.strided:
        found = f"is {tensor.layout}"
    elif tensor.is_meta:
        found = "is on the meta device and holds no data"
    elif tensor.dtype not in TYPE_NAMES:
        found = f"has type {tensor.dtype}"
    elif name == "__metadata__":
        found = "has a name that safetensors keeps for itself"
    elif any("\ud800" <= sign <= "\udfff" for sign in name):
        found = "has a name with half a character (a lone surrogate), which safetensors does not read back"
    if found is not None:
        raise CheckpointError(
            f"Tensor {name!r} cannot be stored: it {found}. Dense tensors with data of these types are "
            f"stored: {', '.join(str(dtype).removeprefix('torch.') for dtype in TYPE_NAMES)}."
        )
