"""The sealed manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    PURPOSE,
    FileEntry,
    Manifest,
    RunIdentity,
    digest_of,
    first_sealed,
    read_manifest,
    resealed,
    sealers,
)
from esper.errors import CheckpointCorrupt
from tests.checkpoint.runs import OTHER_RING, RING

DIGEST = "ab" * 32


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "kind": "checkpoint",
        "run": RunIdentity(id="0" * 16, model="net"),
        "name": "step-000000007",
        "step": 7,
        "epoch": 1,
        "created_seconds": 2.5,
        "parent": DIGEST,
        "files": {"model.safetensors": FileEntry(size=3, blake3=DIGEST)},
        "blobs": {"twin": FileEntry(size=4, blake3=DIGEST)},
    }
    return Manifest(**(fields | changes))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "step-000000007"
    path.mkdir()
    return path


def test_a_manifest_comes_back_with_the_digest_of_its_bytes(directory: Path) -> None:
    raw = manifest().to_bytes(RING)
    (directory / MANIFEST_NAME).write_bytes(raw)
    assert read_manifest(directory, RING, "checkpoint") == (manifest(), digest_of(raw))


def refused(directory: Path, raw: bytes, says: str) -> None:
    (directory / MANIFEST_NAME).write_bytes(raw)
    with pytest.raises(CheckpointCorrupt, match=says):
        read_manifest(directory, RING, "checkpoint")


def test_a_missing_manifest_is_told(directory: Path) -> None:
    with pytest.raises(CheckpointCorrupt, match="cannot be read: No such file"):
        read_manifest(directory, RING, "checkpoint")


def test_a_huge_manifest_is_not_read(directory: Path) -> None:
    refused(directory, bytes(MAX_MANIFEST_BYTES + 1), "larger than")


def test_a_manifest_of_another_key_ring_is_refused(directory: Path) -> None:
    refused(directory, manifest().to_bytes(OTHER_RING), "not in this key ring|does not verify")


def test_a_manifest_cannot_stand_in_another_place(directory: Path) -> None:
    elsewhere = manifest(name="step-000000008").to_bytes(RING)
    refused(directory, elsewhere, "belongs to checkpoint 'step-000000008'")
    refused(directory, manifest(kind="attachment").to_bytes(RING), "belongs to attachment")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"surprise": 1},
        {"step": -1},
        {"step": "7"},
        {"parent": "xyz"},
        {"parent": DIGEST + "\n"},
        {"files": {"../etc": {"size": 1, "blake3": DIGEST}}},
        {"files": {".tmp": {"size": 1, "blake3": DIGEST}}},
        {"files": {MANIFEST_NAME: {"size": 1, "blake3": DIGEST}}},
        {"files": {"a": {"size": -1, "blake3": DIGEST}}},
        {"files": {"a": {"size": 1, "blake3": DIGEST, "more": 1}}},
        {"blobs": {"../twin": {"size": 1, "blake3": DIGEST}}},
        {"run": {"id": "x", "model": "net"}},
    ],
    ids=str,
)
def test_the_schema_is_closed_even_for_sealed_bytes(directory: Path, change: dict[str, Any]) -> None:
    body = json.loads(RING.unseal(PURPOSE, manifest().to_bytes(RING)))
    refused(directory, RING.seal(PURPOSE, json.dumps(body | change).encode()), "breaks its schema at")


def test_sealed_bytes_that_are_no_json_are_refused(directory: Path) -> None:
    refused(directory, RING.seal(PURPOSE, b"[]"), "breaks its schema at its root")


def rotated(ring: KeyRing) -> KeyRing:
    added = ring.add()
    return added.promote(added.keys[-1].id)


def without(ring: KeyRing, key_id: str) -> KeyRing:
    return ring.disable(key_id).destroy(key_id)


def test_a_later_key_vouches_for_the_same_manifest_under_the_same_digest(directory: Path) -> None:
    path = directory / MANIFEST_NAME
    raw, ring, again = manifest().to_bytes(RING), RING, None
    path.write_bytes(raw)
    for _ in range(3):
        ring = rotated(ring)
        again = resealed(path.read_bytes(), ring)
        assert again is not None
        path.write_bytes(again)
        assert resealed(again, ring) is None
        assert first_sealed(again) == raw
        assert sealers(path) == {RING.primary.id, ring.primary.id}
        for believing in (RING, ring, without(ring, RING.primary.id)):
            assert read_manifest(directory, believing, "checkpoint") == (manifest(), digest_of(raw))
    assert path.stat().st_size < len(raw) + 200  # seals do not pile up


def test_a_second_seal_covers_the_first_and_is_for_nothing_else(directory: Path) -> None:
    ring = rotated(RING)
    new = without(ring, RING.primary.id)
    again = resealed(manifest().to_bytes(RING), ring)
    other = resealed(manifest(step=8).to_bytes(RING), ring)
    assert again is not None
    assert other is not None
    seal = len(b"\n" + again.splitlines(keepends=True)[-1])
    refused_by(directory, new, first_sealed(again), "not in this key ring")  # cut off
    refused_by(directory, new, first_sealed(other) + again[-seal:], "does not verify")  # of another one
    forged = OTHER_RING.seal(PURPOSE, manifest(step=9).model_dump_json().encode())
    refused_by(directory, new, forged + again[-seal:], "does not verify")
    refused_by(directory, new, ring.seal(PURPOSE, first_sealed(again)), "does not verify")  # wrong purpose
    mac = again.rindex(RING.primary.id.encode())
    refused_by(directory, new, again[:mac] + b"x" + again[mac + 1 :], "does not verify")
    with pytest.raises(CheckpointCorrupt):
        resealed(forged, ring)


def refused_by(directory: Path, ring: KeyRing, raw: bytes, says: str) -> None:
    (directory / MANIFEST_NAME).write_bytes(raw)
    with pytest.raises(CheckpointCorrupt, match=says):
        read_manifest(directory, ring, "checkpoint")
