"""What may be put into a file of a checkpoint: bytes, a file, an open one, tensors, or staged tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import torch

from esper.checkpoint.tensor_file import file_pieces

_READ_BYTES = 16 << 20


@dataclass(frozen=True)
class Staged:
    """A file that is already laid out in memory: the staging buffers of a background save."""

    parts: tuple[memoryview, ...]

    @property
    def size(self) -> int:
        return sum(part.nbytes for part in self.parts)


FileContent = bytes | Path | BufferedIOBase | Mapping[str, torch.Tensor] | Staged


def pieces(content: FileContent) -> Iterator[memoryview]:
    """The bytes of the file, in order; a mapping of tensors becomes a safetensors file.

    An open file gives what follows from where it stands, and stays open.
    """
    if isinstance(content, bytes):
        yield memoryview(content)
    elif isinstance(content, Path):
        with content.open("rb") as file:
            yield from _file_pieces(file)
    elif isinstance(content, BufferedIOBase):
        yield from _file_pieces(content)
    elif isinstance(content, Staged):
        yield from content.parts
    else:
        yield from file_pieces(content)


def _file_pieces(file: BufferedIOBase) -> Iterator[memoryview]:
    while piece := file.read(_READ_BYTES):
        yield memoryview(piece)
