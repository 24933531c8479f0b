"""What a new primary key takes over in a run: seals of manifests, and the keys of encrypted files.

Afterwards nothing rests on an older key alone, so that one can be destroyed. Only manifests and headers are
written: a manifest whole, by a new file in its place, and of a header one of its two copies after the other.
So whenever it is interrupted, each file opens by the old key or the new one; done again, it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.encrypted import Rewrapped, rewrap_all
from esper.checkpoint.identity import IDENTITY_NAME, reseal_identity
from esper.checkpoint.layout import DELETED_PREFIX, KERNELS, TEMPORARY_PREFIX
from esper.checkpoint.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    digest_of,
    first_sealed,
    resealed,
    sealers,
)
from esper.checkpoint.reading import read_regular
from esper.checkpoint.storage import POSIX, Storage
from esper.checkpoint.writing import put_in_place
from esper.errors import CheckpointCorrupt

_UNFINISHED = (TEMPORARY_PREFIX, DELETED_PREFIX)


@dataclass(frozen=True)
class Rekeyed:
    """What became of the files of a run.

    Attributes:
        wrapped: the encrypted ones.
        sealed: manifests that the primary key vouches for now and did not before.
        failed: manifests that it does not vouch for, and why: nobody could before either, or they could not
            be written.
    """

    wrapped: Rewrapped
    sealed: tuple[str, ...]
    failed: tuple[str, ...]


def rekey(run_dir: Path, ring: KeyRing, storage: Storage = POSIX) -> Rekeyed:
    """Lets the primary key vouch for all that is sealed in a run, and wrap the keys of encrypted files.

    Only the holder of the writer lock may call this.
    """
    sealed: list[str] = []
    failed: list[str] = []
    try:
        reseal_identity(_checkpoints(run_dir), ring, storage)
    except (CheckpointCorrupt, OSError) as error:
        failed.append(f"{IDENTITY_NAME}: {error}")
    for name, path in _manifests(run_dir).items():
        try:
            again = resealed(_read(path), ring)
            if again is not None:
                put_in_place(storage, path, again)
                sealed.append(name)
        except (CheckpointCorrupt, OSError) as error:
            failed.append(f"{name}: {error}")
    return Rekeyed(rewrap_all(_checkpoints(run_dir), ring, storage), tuple(sealed), tuple(failed))


def due(run_dir: Path, ring: KeyRing) -> dict[str, str]:
    """The manifests that `rekey` would seal again: the digest of each by its name.

    Raises:
        OSError: one cannot be read.
    """
    found = {}
    for name, path in _manifests(run_dir).items():
        try:
            again = resealed(_read(path), ring)
        except CheckpointCorrupt:
            continue
        if again is not None:
            found[name] = digest_of(first_sealed(again))
    return found


def resting_on(run_dir: Path, ring: KeyRing, key_id: str) -> list[str]:
    """The commits that a key vouches for and no other key that is believed: without it they do not verify."""
    others = ring.believed().secrets.keys() - {key_id}
    seals = {name: sealers(path) for name, path in _manifests(run_dir).items()}
    return [name for name, keys in seals.items() if key_id in keys and not keys & others]


def missing_keys(run_dir: Path, ring: KeyRing) -> dict[str, list[str]]:
    """Keys that seals name, that the ring does not hold, and without which these commits do not verify."""
    held, missing = {key.id for key in ring.keys}, dict[str, list[str]]()
    for name, path in _manifests(run_dir).items():
        keys = sealers(path)
        for key in sorted(keys) if not keys & held else ():
            missing.setdefault(key, []).append(name)
    return missing


def _manifests(run_dir: Path) -> Mapping[str, Path]:
    """The manifests of checkpoints, of what was committed to them, of kernels, and of what was set aside.

    The name of each is its place below `checkpoints`, or that in the run, for a kernel.
    """
    found, checkpoints = {}, _checkpoints(run_dir)
    for folder, above in ((checkpoints, checkpoints), (run_dir / KERNELS, run_dir)):
        for path in sorted(folder.rglob(MANIFEST_NAME)):
            place = path.parent.relative_to(above)
            if not path.is_symlink() and not any(part.startswith(_UNFINISHED) for part in place.parts):
                found[str(place)] = path
    return found


def _checkpoints(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def _read(path: Path) -> bytes:
    return read_regular(path, 2 * MAX_MANIFEST_BYTES)
