"""The manifest: what a checkpoint consists of, sealed. Nothing is believed before it verifies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from esper.checkpoint.crypto import KeyRing, sealed_by
from esper.checkpoint.digests import joined
from esper.checkpoint.reading import read_regular
from esper.errors import CheckpointCorrupt, CheckpointError

MANIFEST_NAME = "MANIFEST.json"
MAX_MANIFEST_BYTES = 32 << 20
"""Room for the digests of all shards of about 2 TB."""
PURPOSE = "esper manifest"
_AGAIN = "esper manifest again"
_SEAL_BYTES = 256
"""More than a seal has."""

BLOB_SUFFIXES = {"twin": ".pt2", "batches": ".json", "samples": ".safetensors"}
"""The kinds of content-addressed files and how their names end; a kind is also the name of its directory."""

ManifestKind = Literal["checkpoint", "attachment", "kernel"]
"""What a commit can be; a kernel stands by itself, at step and epoch 0."""

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """Size in bytes and digest of one file (see `digests`); of an encrypted one, it leaves the header out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    size: Annotated[int, Field(ge=0)]
    blake3: _Digest
    is_encrypted: bool = False
    shards: tuple[_Digest, ...] = ()
    """Digests of its shards, if it has several; older manifests have none, and one BLAKE3 of all bytes."""

    @model_validator(mode="after")
    def _digest_is_that_of_the_shards(self) -> FileEntry:
        if self.shards and joined(self.shards).blake3 != self.blake3:
            raise ValueError("the digest is not that of the shards")
        return self


class RunIdentity(BaseModel):
    """Which run, and of which model; every manifest carries it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    model: str

    def __str__(self) -> str:
        return f"{self.id}, model {self.model!r}"


class AuditAnchor(BaseModel):
    """An entry of the audit, which vouches for all before it: its number and the BLAKE3 of its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    number: Annotated[int, Field(ge=0)]
    digest: _Digest


class Manifest(BaseModel):
    """What one commit consists of. `kind` says what it is; an attachment's parent is its base checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    version: Literal[1] = 1
    kind: ManifestKind
    run: RunIdentity
    """The run that wrote it."""
    name: str
    """The directory that it was written for, so that one commit cannot stand in another's place."""
    step: Annotated[int, Field(ge=0)]
    epoch: Annotated[int, Field(ge=0)]
    created_seconds: float
    """When, in seconds since 1970 by the writer's clock."""
    parent: _Digest | None
    """Digest of the manifest that this one follows."""
    files: dict[str, FileEntry]
    blobs: dict[str, FileEntry] = Field(default_factory=dict)
    """Content-addressed files that this commit needs, by kind, such as the twin."""

    audit: AuditAnchor | None = None
    """The last entry of the audit when this was committed; None: nothing was in it, or there was none yet."""

    @field_validator("files")
    @classmethod
    def _names_are_plain(cls, entries: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for name in entries:
            if not FILE_NAME.fullmatch(name) or name == MANIFEST_NAME:
                raise ValueError(f"file name {name!r} is not allowed")
        return entries

    @field_validator("blobs")
    @classmethod
    def _kinds_are_known(cls, entries: dict[str, FileEntry]) -> dict[str, FileEntry]:
        if unknown := set(entries) - set(BLOB_SUFFIXES):
            raise ValueError(f"content-addressed kind {min(unknown)!r} is not known")
        return entries

    def to_bytes(self, ring: KeyRing) -> bytes:
        """The sealed bytes of the manifest file.

        Raises:
            CheckpointError: it would be larger than what is read back.
        """
        raw = ring.seal(PURPOSE, json.dumps(self.model_dump(mode="json"), sort_keys=True).encode())
        if len(raw) > MAX_MANIFEST_BYTES:
            raise CheckpointError(
                f"The manifest of {self.name} would have {len(raw)} bytes, and at most {MAX_MANIFEST_BYTES} "
                "are read back. Save less in one checkpoint: about 2 TB fit, in thousands of files."
            )
        return raw


def digest_of(raw: bytes) -> str:
    """The name of a manifest: BLAKE3 over its file as it was first sealed."""
    return blake3.blake3(raw).hexdigest()


def resealed(raw: bytes, ring: KeyRing) -> bytes | None:
    """A manifest file that the primary key vouches for as well; None if it does already.

    The file stays as it was first sealed, byte for byte, and with it its digest, which attachments, later
    manifests and keys of decisions name. A seal for another purpose comes behind it, over all of it, in the
    place of an earlier one.

    Raises:
        CheckpointCorrupt: no key of the ring vouches for it.
    """
    first = _opened(raw, ring)[1]
    return None if sealed_by(raw) == ring.primary.id else ring.seal(_AGAIN, first)


def sealers(path: Path) -> frozenset[str]:
    """The ids of the keys that a manifest file is sealed with, believed or not; none if it cannot be read."""
    try:
        raw = read_regular(path, MAX_MANIFEST_BYTES + _SEAL_BYTES)
    except OSError:
        return frozenset()
    return frozenset(key for one in (raw, first_sealed(raw)) if (key := sealed_by(one)) is not None)


def first_sealed(raw: bytes) -> bytes:
    """A manifest file as it was first sealed; what it says is not believed here."""
    inner = raw[:-1].rpartition(b"\n")[0]
    return raw if sealed_by(inner) is None else inner


def _opened(raw: bytes, ring: KeyRing) -> tuple[bytes, bytes]:
    """What a manifest file says, and the file as it was first sealed; any of its seals may vouch for it."""
    first = first_sealed(raw)
    if first is raw:
        return ring.unseal(PURPOSE, raw), raw
    try:
        ring.unseal(_AGAIN, raw)
    except CheckpointCorrupt as later:
        try:
            return ring.unseal(PURPOSE, first), first
        except CheckpointCorrupt:
            raise later from None
    return first[:-1].rpartition(b"\n")[0], first


def read_manifest(
    directory: Path, ring: KeyRing, kind: ManifestKind, name: str | None = None
) -> tuple[Manifest, str]:
    """The manifest of a directory and its digest, after size, seal, schema and name were checked.

    Args:
        directory: where it lies.
        ring: the keys that are believed.
        kind: what it must be of.
        name: the name that the directory was committed under, if it has another one now.

    Raises:
        UnknownKey: it was sealed by a key that the ring does not hold.
        CheckpointCorrupt: with the reason; the message does not repeat the path of the directory.
    """
    try:
        raw = read_regular(directory / MANIFEST_NAME, MAX_MANIFEST_BYTES + _SEAL_BYTES)
    except OSError as error:
        raise CheckpointCorrupt(f"{MANIFEST_NAME} cannot be read: {error.strerror}") from error
    if len(first_sealed(raw)) > MAX_MANIFEST_BYTES:
        raise CheckpointCorrupt(f"{MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        body, first = _opened(raw, ring)
    except CheckpointCorrupt as error:
        raise type(error)(f"{MANIFEST_NAME}: {error}") from error
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise CheckpointCorrupt(
            f"{MANIFEST_NAME} breaks its schema at {where or 'its root'}: {problem['msg']}"
        ) from error
    name = directory.name if name is None else name
    if manifest.kind != kind or manifest.name != name:
        raise CheckpointCorrupt(
            f"{MANIFEST_NAME} belongs to {manifest.kind} {manifest.name!r}, not to {kind} {name!r}"
        )
    return manifest, digest_of(first)
