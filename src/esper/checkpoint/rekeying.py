"""What a new primary key takes over in a run: seals of manifests, and the keys of encrypted files.

Afterwards nothing rests on an older key alone, so that one can be destroyed. Only manifests and headers are
written: a manifest whole, by a new file in its place, and of a header one of its two copies after the other.
So whenever it is interrupted, each file opens by the old key or the new one; done again, it goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.encrypted import Rewrapped, is_encrypted, rewrap_all, wrapped_by
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


def rekey(run_dir: Path, ring: KeyRing, named: Mapping[str, str], storage: Storage = POSIX) -> Rekeyed:
    """Lets the primary key vouch for what is sealed in a run, and wrap the keys of encrypted files.

    Only the holder of the writer lock may call this.

    Args:
        run_dir: the run.
        ring: with the primary key that takes over.
        named: what `due` gave, and the audit was told: nothing else is sealed.
        storage: the system calls.
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
            if again is None:
                continue
            if named.get(name) != digest_of(first_sealed(again)):
                raise CheckpointCorrupt("it was changed while keys were, or could not be read before")
            put_in_place(storage, path, again)
            sealed.append(name)
        except (CheckpointCorrupt, OSError) as error:
            failed.append(f"{name}: {error}")
    files = (path for folder in _folders(run_dir).values() for path in _listed(folder))
    return Rekeyed(rewrap_all(files, ring, storage), tuple(sealed), tuple(failed))


def due(run_dir: Path, ring: KeyRing) -> dict[str, str]:
    """The manifests that are to be sealed again: the digest of each by its name.

    Those that cannot be read, or that nobody can vouch for, are not among them; `rekey` tells of them.
    """
    found = {}
    for name, path in _manifests(run_dir).items():
        try:
            again = resealed(_read(path), ring)
        except (CheckpointCorrupt, OSError):
            continue
        if again is not None:
            found[name] = digest_of(first_sealed(again))
    return found


def resting_on(run_dir: Path, ring: KeyRing, key_id: str) -> list[str]:
    """The commits that do not verify without a key, or hold a file that does not open without it."""
    others = ring.believed().secrets.keys() - {key_id}
    return [
        name
        for name, path in _manifests(run_dir).items()
        if any(key_id in keys and not keys & others for keys in _needed(path))
    ]


def missing_keys(run_dir: Path, ring: KeyRing) -> dict[str, list[str]]:
    """Keys that the ring does not hold, and without which these commits do not verify or open."""
    held, missing = {key.id for key in ring.keys}, dict[str, list[str]]()
    for name, path in _manifests(run_dir).items():
        lacking = [keys for keys in _needed(path) if not keys & held]
        for key in sorted(frozenset().union(*lacking)):
            missing.setdefault(key, []).append(name)
    return missing


def _needed(manifest: Path) -> Iterator[frozenset[str]]:
    """The keys of which one is needed, to believe a manifest, and to open each encrypted file beside it."""
    yield sealers(manifest)
    for path in _listed(manifest.parent):
        with suppress(OSError, CheckpointCorrupt):  # of what cannot be read nobody knows
            if path.is_file() and is_encrypted(path):
                yield wrapped_by(path)


def _listed(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it cannot be read, which reading its manifest tells."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _manifests(run_dir: Path) -> Mapping[str, Path]:
    """The manifests of checkpoints, of what was committed to them, of kernels, and of what was set aside."""
    paths = {name: folder / MANIFEST_NAME for name, folder in _folders(run_dir).items()}
    return {name: path for name, path in paths.items() if not _is_missing(path)}


def _folders(run_dir: Path) -> Mapping[str, Path]:
    """The folders that manifests may lie in, be they links to other places, as those who read take them.

    The name of each is its place below `checkpoints`, or that in the run, for a kernel.
    """
    found, checkpoints = {}, _checkpoints(run_dir)
    for above, pattern in ((checkpoints, "*"), (checkpoints, "*/*"), (run_dir, f"{KERNELS}/*")):
        for path in above.glob(pattern):
            place = path.relative_to(above)
            if path.is_dir() and not any(part.startswith(_UNFINISHED) for part in place.parts):
                found[str(place)] = path
    return dict(sorted(found.items()))


def _is_missing(path: Path) -> bool:
    """Whether it is known that there is no such file."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:  # reading it tells why
        return False
    return False


def _checkpoints(run_dir: Path) -> Path:
    return run_dir / "checkpoints"


def _read(path: Path) -> bytes:
    return read_regular(path, 2 * MAX_MANIFEST_BYTES)
