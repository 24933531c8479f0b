"""Files that prove themselves: by size and digest, without any key."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import FileIO
from mmap import mmap
from pathlib import Path

import torch

from esper.checkpoint.digests import SHARD_BYTES, WHOLE, Digest, FileHash, FileState, joined, shards_of
from esper.checkpoint.encrypted import HEADER_BYTES, FileKey, SealedContent
from esper.checkpoint.mapped import LENGTH_BYTES, MappedTensors, data_start
from esper.checkpoint.reading import open_regular
from esper.checkpoint.tensor_file import map_tensors
from esper.errors import CheckpointCorrupt, CheckpointMissing

_LOOKS = 2


@dataclass(frozen=True)
class Examined:
    """What came of reading every byte of a file: a problem, or None and the state in which it has none.

    The state is None where it changed meanwhile.
    """

    problem: str | None
    state: FileState | None = None


@dataclass(frozen=True)
class FileRef:
    """A file that proves itself: whoever holds this needs no key. It travels to worker processes."""

    path: Path
    size: int
    blake3: str
    key: str = field(default="", repr=False)
    """What opens this file and no other, if it is encrypted."""
    trouble: str = ""
    """Why the holder of this has no key that opens it."""
    weakness: str = ""
    """Which of the two copies of its key does not open, and why; the file opens by the other one."""
    shards: tuple[str, ...] = field(default=(), repr=False)
    """The digests of its shards, if it has several."""
    seen: FileState | None = field(default=None, repr=False, compare=False)
    """The state in which this process read and matched every byte: in that state it is not hashed again."""

    def problem(self) -> str | None:
        """What is wrong with the bytes on disk, or None after all of them were read and match."""
        return self.examine().problem

    def examine(self) -> Examined:
        """Reads every byte, on all cores.

        An error may pass, as those of a network file system do: what fails is read once more.
        """
        if self.trouble:
            return Examined(f"{self.path.name}: {self.trouble}")
        found = self._examine()
        return found if found.problem is None else self._examine()

    def _examine(self) -> Examined:
        name = self.path.name
        shards: list[str] = []
        try:
            with open_regular(self.path) as file:
                before = _state(file)
                size = before.size
                if size == self.size:
                    size, shards = shards_of(file.fileno(), self._start, self._shard_bytes)
                after = _state(file)
        except OSError as error:
            return Examined(f"{name} cannot be read: {error.strerror}")
        if size != self.size:
            return Examined(f"{name} has {size} bytes instead of {self.size}")
        if joined(shards) != self._digest:
            return Examined(f"{name} has other bytes than were saved ({self._difference(shards)})")
        return Examined(None, after if after == before else None)

    @property
    def _digest(self) -> Digest:
        return Digest(self.blake3, self.shards)

    @property
    def _shard_bytes(self) -> int:
        return SHARD_BYTES if self.shards else WHOLE

    @property
    def _start(self) -> int:
        """Where what is in the digest begins."""
        return HEADER_BYTES if self.key else 0

    def _difference(self, shards: list[str]) -> str:
        if not self.shards or len(shards) != len(self.shards):
            return "its BLAKE3 digest differs"
        wrong = [number for number, digest in enumerate(self.shards) if digest != shards[number]]
        first = self._start + wrong[0] * SHARD_BYTES
        return (
            f"of its {len(shards)} BLAKE3 digests {len(wrong)} differ, first that of the "
            f"{SHARD_BYTES >> 20} MiB from byte {first} on"
        )

    def verify(self) -> Path:
        """The path, after size and digest were checked; CheckpointCorrupt otherwise."""
        if self.trouble:
            raise CheckpointCorrupt(f"{self.path}: {self.trouble}.")
        problem = None if self._is_as_seen() else self.problem()
        if problem is not None:
            raise CheckpointCorrupt(
                f"{self.path.parent}: {problem}. Go back to an earlier checkpoint; this file cannot be "
                f"trusted."
            )
        return self.path

    def _is_as_seen(self) -> bool:
        try:
            return self.seen is not None and FileState.of(self.path.stat()) == self.seen
        except OSError:  # reading it tells why
            return False

    def read_bytes(self) -> bytes:
        """The content, checked in memory: what is returned is what was verified."""
        return bytes(self.decrypted() if self.key or self.trouble else self._checked(self._read))

    def _read(self, file: FileIO, hashing: FileHash | None) -> bytes:
        raw = b""
        while more := file.read(self.size + 1 - len(raw)):
            raw += more
        if hashing is not None:
            hashing.update(memoryview(raw))
        return raw

    def decrypted(self) -> mmap | bytes:
        """The content of an encrypted file, every byte checked; it is only ever in memory.

        Raises:
            CheckpointCorrupt: it does not open, or is not what was saved.
        """
        if self.trouble:
            self.verify()

        def read(file: FileIO, hashing: FileHash | None) -> mmap | bytes:
            return FileKey.from_text(self.key).decrypt(file, self.size, hashing)

        return self._checked(read)

    def _checked(self, read: Callable[[FileIO, FileHash | None], mmap | bytes]) -> mmap | bytes:
        """What `read` makes of the file, if all that it read is what was saved."""
        for _ in range(_LOOKS):
            try:
                with open_regular(self.path) as file:
                    hashing = FileHash(self._shard_bytes) if _state(file) != self.seen else None
                    content = read(file, hashing)
                    state = _state(file)
                if state == self.seen:
                    return content
                if state.size == self.size and hashing is not None and hashing.digest() == self._digest:
                    return content
            except (OSError, CheckpointCorrupt):  # `verify` tells it, unless it has passed by then
                continue
        self.verify()
        raise CheckpointCorrupt(f"{self.path} changed while it was read.")


def _state(file: FileIO) -> FileState:
    return FileState.of(os.fstat(file.fileno()))


def examined(files: Iterable[FileRef]) -> tuple[tuple[str, ...], dict[Path, FileState]]:
    """Reads every byte of these files: their problems, and the state of each that has none."""
    found = [(file.path, file.examine()) for file in files]
    problems = tuple(one.problem for _, one in found if one.problem is not None)
    return problems, {path: one.state for path, one in found if one.state is not None}


def open_tensors(file: FileRef) -> MappedTensors:
    """Verifies a safetensors file and maps its tensors, to be read one after the other and let go of.

    Raises:
        CheckpointCorrupt: the bytes are not those that were saved.
    """
    if file.key or file.trouble:
        return MappedTensors(file.path, file.decrypted())
    return MappedTensors(file.verify())


def load_tensors(file: FileRef, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Verifies a safetensors file and maps its tensors, or only those named: nothing is copied.

    Of an encrypted file, all is verified and only what holds these tensors is decrypted. The tensors are on
    the CPU and private: writing to them does not reach the file.

    Raises:
        CheckpointCorrupt: the bytes are not those that were saved.
        CheckpointMissing: a tensor that was asked for is not in the file.
    """
    if not file.key and not file.trouble:
        return map_tensors(file.verify(), names)
    return dict(open_tensors(file)) if names is None else _decrypted_tensors(file, list(names))


def _decrypted_tensors(file: FileRef, names: Sequence[str]) -> dict[str, torch.Tensor]:
    with open_regular(file.verify()) as sealed:
        content = SealedContent(FileKey.from_text(file.key), sealed, file.size)
        content.open(0, LENGTH_BYTES)
        content.open(0, data_start(content.opened))
        tensors = MappedTensors(file.path, content.opened)
        for name in set(names) - set(tensors):
            raise CheckpointMissing(f"{file.path} holds no tensor {name!r}.")
        for name in names:
            content.open(*tensors.place(tensors[name]))
    return {name: tensors[name] for name in names}
