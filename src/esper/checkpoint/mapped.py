"""Tensors of a file in memory that is given back as soon as each was read: for files larger than memory."""

from __future__ import annotations

import json
import math
import mmap
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from esper.checkpoint.tensor_file import TYPE_NAMES
from esper.errors import CheckpointCorrupt

_TYPES = {name: dtype for dtype, name in TYPE_NAMES.items()}
LENGTH_BYTES = 8
"""The first bytes of a file tell how long its header is."""


def data_start(content: mmap.mmap | bytes) -> int:
    """Where in a file the data begin, behind a header that may be longer than the file is."""
    return LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")


class MappedTensors(Mapping[str, torch.Tensor]):
    """A verified safetensors file whose tensors take memory from when they are read until `let_go`.

    Nobody may write to them. The mapping is shared and cannot be written to, because the private ones count
    in full against a worker's cap of memory.

    Raises:
        CheckpointCorrupt: it is no safetensors file.
    """

    def __init__(self, path: Path, content: mmap.mmap | bytes | None = None) -> None:
        """Maps `path`, or takes its content, which was decrypted into shared memory."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given buffer is not writable")
                self._file = _map(path) if content is None else _taken(content)
                self._start = torch.frombuffer(self._file, dtype=torch.uint8, count=1).data_ptr()
                length = data_start(self._file)
                if length > len(self._file):
                    raise ValueError(f"its header would be {length} of {len(self._file)} bytes")
                entries = json.loads(self._file[LENGTH_BYTES:length])
                entries.pop("__metadata__", None)
                self._tensors = {name: self._tensor(entry, length) for name, entry in entries.items()}
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointCorrupt(f"{path} is no safetensors file: {error}.") from error

    def _tensor(self, entry: Mapping[str, Any], data: int) -> torch.Tensor:
        shape, dtype, (first, last) = entry["shape"], _TYPES[entry["dtype"]], entry["data_offsets"]
        count = math.prod(shape)
        if count * dtype.itemsize != last - first:
            raise ValueError(f"{last - first} bytes for {count} elements of {dtype}")
        if not count:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self._file, dtype=dtype, count=count, offset=data + first).reshape(shape)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def read_as_complex(self, name: str) -> None:
        """From now on the two numbers along the last axis of a tensor are read as one complex number."""
        self._tensors[name] = torch.view_as_complex(self._tensors[name])

    def place(self, tensor: torch.Tensor) -> tuple[int, int]:
        """Where in the file one of these tensors begins and ends; (0, 0): it is empty, or none of these."""
        first = tensor.data_ptr() - self._start
        if not tensor.numel() or not 0 <= first < len(self._file):
            return 0, 0
        return first, min(first + tensor.numel() * tensor.element_size(), len(self._file))

    def let_go(self, tensor: torch.Tensor) -> None:
        """Gives the memory of one of these tensors back; its values are read again when they are needed."""
        first, last = self.place(tensor)
        if first == last:
            return
        whole = first - first % mmap.PAGESIZE  # the neighbors' shares of the outer pages are read again too
        self._file.madvise(mmap.MADV_DONTNEED, whole, last - whole)


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _taken(content: mmap.mmap | bytes) -> mmap.mmap:
    if isinstance(content, bytes):
        raise ValueError("it is empty")
    return content
