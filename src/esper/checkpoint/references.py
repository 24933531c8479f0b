"""Names for what lies on disk: checkpoints and attachments by their manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.digests import FileState
from esper.checkpoint.encrypted import open_header, weakness
from esper.checkpoint.file_ref import FileRef
from esper.checkpoint.layout import blob_path
from esper.checkpoint.manifest import FileEntry, Manifest
from esper.errors import CheckpointCorrupt, CheckpointMissing


def _file(path: Path, entry: FileEntry, ring: KeyRing | None, seen: FileState | None) -> FileRef:
    """How to verify and open a file that a manifest lists."""
    file = FileRef(path, entry.size, entry.blake3, shards=entry.shards, seen=seen)
    if not entry.is_encrypted:
        return file
    try:
        if ring is None:
            raise CheckpointCorrupt("it is encrypted, and there is no key ring here")
        return replace(file, key=open_header(path, ring).text(), weakness=weakness(path, ring))
    except CheckpointCorrupt as error:
        return replace(file, trouble=str(error))


@dataclass(frozen=True, eq=False)
class _Commit:
    path: Path
    manifest: Manifest
    digest: str
    """BLAKE3 of the manifest: names this commit and everything in it."""
    ring: KeyRing | None = field(default=None, repr=False)
    """Opens what is encrypted."""
    seen: Mapping[Path, FileState] = field(default_factory=dict, repr=False)
    """Files of which this process has read every byte, and the state in which they matched."""

    def seen_by(self, report: VerifyReport) -> Self:
        """The same commit, verified: while its files stay as they are, none of them is hashed again."""
        return replace(self, seen=report.seen)

    @property
    def is_as_seen(self) -> bool:
        """Whether all its files were seen, and are as they were then."""
        try:
            return set(self.seen) >= {self.path / name for name in self.manifest.files} and all(
                FileState.of(path.stat()) == state for path, state in self.seen.items()
            )
        except OSError:
            return False

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
        return {name: self._file(name, entry) for name, entry in files}

    def _file(self, name: str, entry: FileEntry) -> FileRef:
        path = self.path / name
        return _file(path, entry, self.ring, self.seen.get(path))

    def blobs(self, run_dir: Path) -> dict[str, FileRef]:
        """The content-addressed files that it needs, by kind."""
        blobs = self.manifest.blobs
        paths = {kind: blob_path(run_dir, kind, entry.blake3) for kind, entry in blobs.items()}
        return {kind: _file(path, blobs[kind], None, self.seen.get(path)) for kind, path in paths.items()}

    @property
    def weaknesses(self) -> tuple[str, ...]:
        """Encrypted files that open by one copy of their key only, and why the other copy does not open."""
        return tuple(f"{name}: {file.weakness}" for name, file in self.files.items() if file.weakness)

    def file(self, name: str) -> FileRef:
        """One file; CheckpointMissing names those there are."""
        try:
            return self._file(name, self.manifest.files[name])
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


@dataclass(frozen=True, eq=False)
class SealedRef(_Commit):
    """Something that stands by itself in a run directory, such as a kernel."""


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
    seen: Mapping[Path, FileState] = field(default_factory=dict, repr=False)
    """In which state the files were that matched."""

    @property
    def is_ok(self) -> bool:
        return not self.problems
