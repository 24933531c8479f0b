"""Names for what lies on disk: files by digest, checkpoints and attachments by their manifests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path

import blake3
import torch

from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.encrypted import HEADER_BYTES, FileKey, open_header, weakness
from esper.checkpoint.manifest import FileEntry, Manifest
from esper.checkpoint.mapped import MappedTensors
from esper.checkpoint.reading import digest_of_file, open_regular, read_regular
from esper.checkpoint.tensor_file import map_tensors
from esper.errors import CheckpointCorrupt, CheckpointMissing

_LOOKS = 2


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

    def problem(self) -> str | None:
        """What is wrong with the bytes on disk, or None after all of them were read and match.

        An error may pass, as those of a network file system do: what fails is read once more.
        """
        return (self.trouble and f"{self.path.name}: {self.trouble}") or (self._problem() and self._problem())

    def _problem(self) -> str | None:
        name = self.path.name
        try:
            size, digest = self.path.stat().st_size, ""
            if size == self.size:
                size, digest = digest_of_file(self.path, HEADER_BYTES if self.key else 0)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if size != self.size:
            return f"{name} has {size} bytes instead of {self.size}"
        if digest != self.blake3:
            return f"{name} has other bytes than were saved (its BLAKE3 digest differs)"
        return None

    def verify(self) -> Path:
        """The path, after size and digest were checked; CheckpointCorrupt otherwise."""
        if self.trouble:
            raise CheckpointCorrupt(f"{self.path}: {self.trouble}.")
        problem = self.problem()
        if problem is not None:
            raise CheckpointCorrupt(
                f"{self.path.parent}: {problem}. Go back to an earlier checkpoint; this file cannot be "
                f"trusted."
            )
        return self.path

    def read_bytes(self) -> bytes:
        """The content, checked in memory: what is returned is what was verified."""
        if self.key or self.trouble:
            return bytes(self.decrypted())
        for _ in range(_LOOKS):
            try:
                raw = read_regular(self.path, self.size + 1)
            except OSError:  # `verify` tells it, unless it has passed by then
                continue
            if len(raw) == self.size and blake3.blake3(raw).hexdigest() == self.blake3:
                return raw
        self.verify()
        raise CheckpointCorrupt(f"{self.path} changed while it was read.")

    def decrypted(self) -> mmap | bytes:
        """The content of an encrypted file, every byte checked; it is only ever in memory.

        Raises:
            CheckpointCorrupt: it does not open, or is not what was saved.
        """
        if self.trouble:
            self.verify()
        for _ in range(_LOOKS):
            try:
                with open_regular(self.path) as file:
                    file.seek(HEADER_BYTES)
                    content, digest = FileKey.from_text(self.key).decrypt(file, self.size)
                    if digest == self.blake3 and os.fstat(file.fileno()).st_size == self.size:
                        return content
            except (OSError, CheckpointCorrupt):  # `verify` tells it, unless it has passed by then
                continue
        self.verify()
        raise CheckpointCorrupt(f"{self.path} changed while it was read.")


def _file(path: Path, entry: FileEntry, ring: KeyRing | None) -> FileRef:
    if not entry.is_encrypted:
        return FileRef(path, entry.size, entry.blake3)
    try:
        if ring is None:
            raise CheckpointCorrupt("it is encrypted, and there is no key ring here")
        key, weak = open_header(path, ring).text(), weakness(path, ring)
        return FileRef(path, entry.size, entry.blake3, key, weakness=weak)
    except CheckpointCorrupt as error:
        return FileRef(path, entry.size, entry.blake3, trouble=str(error))


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

    The tensors are on the CPU and private: writing to them does not reach the file.

    Raises:
        CheckpointCorrupt: the bytes are not those that were saved.
        CheckpointMissing: a tensor that was asked for is not in the file.
    """
    if not file.key and not file.trouble:
        return map_tensors(file.verify(), names)
    tensors = open_tensors(file)
    for name in () if names is None else set(names) - set(tensors):
        raise CheckpointMissing(f"{file.path} holds no tensor {name!r}.")
    return {name: tensors[name] for name in (tensors if names is None else names)}


@dataclass(frozen=True, eq=False)
class _Commit:
    path: Path
    manifest: Manifest
    digest: str
    """BLAKE3 of the manifest: names this commit and everything in it."""
    ring: KeyRing | None = field(default=None, repr=False)
    """Opens what is encrypted."""

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
        files = self.manifest.files.items()
        return {name: _file(self.path / name, entry, self.ring) for name, entry in files}

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """Encrypted files that open by one copy of their key only, and why the other copy does not open."""
        return tuple(f"{name}: {file.weakness}" for name, file in self.files.items() if file.weakness)

    def file(self, name: str) -> FileRef:
        """One file; CheckpointMissing names those there are."""
        try:
            return _file(self.path / name, self.manifest.files[name], self.ring)
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
    is_key_unknown: bool = False
    """Whether the key that sealed it is missing in the ring: then the ring is the wrong one, or too old."""

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
