"""The manifest: what a checkpoint consists of, sealed. Nothing is believed before it verifies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from esper.checkpoint.crypto import KeyRing, sealed_by
from esper.checkpoint.reading import read_regular
from esper.errors import CheckpointCorrupt

MANIFEST_NAME = "MANIFEST.json"
MAX_MANIFEST_BYTES = 8 << 20
PURPOSE = "esper manifest"

BLOB_SUFFIXES = {"twin": ".pt2", "batches": ".json", "samples": ".safetensors"}
"""The kinds of content-addressed files and how their names end; a kind is also the name of its directory."""

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """Size in bytes and BLAKE3 digest of one file; of an encrypted one, the digest leaves its header out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    size: Annotated[int, Field(ge=0)]
    blake3: _Digest
    is_encrypted: bool = False


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
    kind: Literal["checkpoint", "attachment"]
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
        """The sealed bytes of the manifest file."""
        return ring.seal(PURPOSE, json.dumps(self.model_dump(mode="json"), sort_keys=True).encode())


def digest_of(raw: bytes) -> str:
    """The name of a manifest: BLAKE3 over its file."""
    return blake3.blake3(raw).hexdigest()


def sealer(path: Path) -> str | None:
    """The id of the key that a manifest file is sealed with, believed or not; None if it cannot be read."""
    try:
        return sealed_by(read_regular(path, MAX_MANIFEST_BYTES + 1))
    except OSError:
        return None


def read_manifest(
    directory: Path, ring: KeyRing, kind: Literal["checkpoint", "attachment"], name: str | None = None
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
        raw = read_regular(directory / MANIFEST_NAME, MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise CheckpointCorrupt(f"{MANIFEST_NAME} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_MANIFEST_BYTES:
        raise CheckpointCorrupt(f"{MANIFEST_NAME} is larger than {MAX_MANIFEST_BYTES} bytes")
    try:
        body = ring.unseal(PURPOSE, raw)
    except CheckpointCorrupt as error:
        raise type(error)(f"{MANIFEST_NAME}: {error}") from error
    try:
        manifest = Manifest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CheckpointCorrupt(
            f"{MANIFEST_NAME} breaks its schema at {where or 'its root'}: {first['msg']}"
        ) from error
    name = directory.name if name is None else name
    if manifest.kind != kind or manifest.name != name:
        raise CheckpointCorrupt(
            f"{MANIFEST_NAME} belongs to {manifest.kind} {manifest.name!r}, not to {kind} {name!r}"
        )
    return manifest, digest_of(raw)
