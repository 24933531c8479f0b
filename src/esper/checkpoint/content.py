"""What may be put into a file of a checkpoint: bytes, a file, an open one, tensors, or staged tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import torch

from esper.checkpoint.tensor_file import laid_out_pieces, lay_out

_READ_BYTES = 4 << 20


@dataclass(frozen=True)
class Staged:
    """A file that is already laid out in memory: the staging buffers of a background save."""

    parts: tuple[memoryview, ...]

    @property
    def size(self) -> int:
        return sum(part.nbytes for part in self.parts)


FileContent = bytes | Path | BufferedIOBase | Mapping[str, torch.Tensor] | Staged


@dataclass(frozen=True)
class Stream:
    """The bytes of a file, in order, and how many to make room for: 0 where nobody knows."""

    size: int
    pieces: Iterable[memoryview]


def stream(content: FileContent) -> Stream:
    """The bytes of a content; a mapping of tensors becomes a safetensors file.

    What lies in memory is not copied, and stays what it is as long as it is referred to. An open file gives
    what follows from where it stands, and stays open.
    """
    if isinstance(content, bytes):
        return Stream(len(content), (memoryview(content),))
    if isinstance(content, Path):
        return Stream(content.stat().st_size, _path_pieces(content))
    if isinstance(content, BufferedIOBase):
        return Stream(0, _file_pieces(content))
    if isinstance(content, Staged):
        return Stream(content.size, content.parts)
    layout = lay_out(content)
    return Stream(len(layout.header) + layout.data_bytes, laid_out_pieces(layout, content))


def _path_pieces(path: Path) -> Iterator[memoryview]:
    with path.open("rb") as file:
        yield from _file_pieces(file)


def _file_pieces(file: BufferedIOBase) -> Iterator[memoryview]:
    while piece := file.read(_READ_BYTES):
        yield memoryview(piece)
