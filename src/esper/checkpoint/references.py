"""Names for what lies on disk: files by digest, checkpoints and attachments by their manifests."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import blake3
import torch

from esper.checkpoint.manifest import FileEntry, Manifest
from esper.checkpoint.mapped import MappedTensors
from esper.checkpoint.tensor_file import map_tensors
from esper.errors import CheckpointCorrupt, CheckpointMissing

_WINDOW_BYTES = 64 << 20


@dataclass(frozen=True)
class FileRef:
    """A file that proves itself: whoever holds this needs no key. It travels to worker processes."""

    path: Path
    size: int
    blake3: str

    def problem(self) -> str | None:
        """What is wrong with the bytes on disk, or None after all of them were read and match."""
        name = self.path.name
        try:
            size = self.path.stat().st_size
            if size != self.size:
                return f"{name} has {size} bytes instead of {self.size}"
            found = _digest(self.path, size)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        return (
            None
            if found == self.blake3
            else f"{name} has other bytes than were saved (its BLAKE3 digest differs)"
        )

    def verify(self) -> Path:
        """The path, after size and digest were checked; CheckpointCorrupt otherwise."""
        problem = self.problem()
        if problem is not None:
            raise CheckpointCorrupt(
                f"{self.path.parent}: {problem}. Go back to an earlier checkpoint; this file cannot be "
                f"trusted."
            )
        return self.path

    def read_bytes(self) -> bytes:
        """The content, checked in memory: what is returned is what was verified."""
        raw = self.path.read_bytes() if self.path.is_file() else b""
        if len(raw) != self.size or blake3.blake3(raw).hexdigest() != self.blake3:
            self.verify()
            raise CheckpointCorrupt(f"{self.path} changed while it was read.")
        return raw


def _digest(path: Path, size: int) -> str:
    """BLAKE3 of a file through a moving window, so that no more of it than that is in this process."""
    hasher = blake3.blake3()
    if not size:
        return hasher.hexdigest()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
        for start in range(0, size, _WINDOW_BYTES):
            length = min(_WINDOW_BYTES, size - start)
            with memoryview(mapped) as whole, whole[start : start + length] as part:
                hasher.update(part)
            mapped.madvise(mmap.MADV_DONTNEED, start, length)
    return hasher.hexdigest()


def _file(path: Path, entry: FileEntry) -> FileRef:
    return FileRef(path, entry.size, entry.blake3)


def open_tensors(file: FileRef) -> MappedTensors:
    """Verifies a safetensors file and maps its tensors, to be read one after the other and let go of.

    Raises:
        CheckpointCorrupt: the bytes are not those that were saved.
    """
    return MappedTensors(file.verify())


def load_tensors(file: FileRef, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Verifies a safetensors file and maps its tensors, or only those named: nothing is copied.

    The tensors are on the CPU and private: writing to them does not reach the file.

    Raises:
        CheckpointCorrupt: the bytes are not those that were saved.
        CheckpointMissing: a tensor that was asked for is not in the file.
    """
    return map_tensors(file.verify(), names)


@dataclass(frozen=True, eq=False)
class _Commit:
    path: Path
    manifest: Manifest
    digest: str
    """BLAKE3 of the manifest: names this commit and everything in it."""

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def epoch(self) -> int:
        return self.manifest.epoch

    @property
    def created_seconds(self) -> float:
        return self.manifest.created_seconds

    @property
    def size_bytes(self) -> int:
        """Bytes in all files that the manifest lists."""
        return sum(entry.size for entry in self.manifest.files.values())

    @property
    def files(self) -> dict[str, FileRef]:
        """Every file, by name."""
        return {name: _file(self.path / name, entry) for name, entry in self.manifest.files.items()}

    def file(self, name: str) -> FileRef:
        """One file; CheckpointMissing names those there are."""
        try:
            return _file(self.path / name, self.manifest.files[name])
        except KeyError:
            raise CheckpointMissing(
                f"{self.path} holds no file {name!r}. It holds: {', '.join(sorted(self.manifest.files))}."
            ) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and (self.path, self.digest) == (other.path, other.digest)

    def __hash__(self) -> int:
        return hash((self.path, self.digest))


@dataclass(frozen=True, eq=False)
class CheckpointRef(_Commit):
    """One checkpoint on disk whose manifest verified."""


@dataclass(frozen=True, eq=False)
class AttachmentRef(_Commit):
    """Something committed later to a checkpoint, such as a mask: `base` is the digest of that checkpoint."""

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def base(self) -> str | None:
        return self.manifest.parent


@dataclass(frozen=True)
class Rejection:
    """A directory that was passed over, and why: a value for records, reports and screens."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name}: {self.reason}"


@dataclass(frozen=True)
class Search:
    """The newest checkpoint that verified (or None), and all newer ones that did not."""

    found: CheckpointRef | None
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True)
class Listing:
    """Checkpoints whose manifests verify, oldest first, and the directories whose manifests do not."""

    checkpoints: tuple[CheckpointRef, ...]
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True)
class Attachments:
    """What was attached to a checkpoint and verified in full, in order of name, and what was not."""

    found: tuple[AttachmentRef, ...]
    rejected: tuple[Rejection, ...]


@dataclass(frozen=True)
class VerifyReport:
    """What a full verification of one checkpoint found."""

    path: Path
    problems: tuple[str, ...]
    unlisted: tuple[str, ...]
    """Names in the directory that no manifest lists; they are never read, so they are no problem."""
    verified_bytes: int

    @property
    def is_ok(self) -> bool:
        return not self.problems
