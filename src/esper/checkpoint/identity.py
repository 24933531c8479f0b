"""Whose run directory this is: one sealed file, so that two models or runs never share a history."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from esper.checkpoint.commit import set_aside
from esper.checkpoint.crypto import KeyRing, UnknownKey
from esper.checkpoint.layout import newest_first
from esper.checkpoint.manifest import RunIdentity, read_manifest
from esper.checkpoint.reading import read_regular
from esper.checkpoint.ring_file import ring_path
from esper.checkpoint.storage import Storage
from esper.checkpoint.writing import put_in_place
from esper.errors import CheckpointCorrupt, CheckpointError

IDENTITY_NAME = "RUN.json"
UNNAMED = "unnamed"
_PURPOSE = "esper run"
_MAX_BYTES = 1 << 16
_LOOKS = 2
"""How often the file is read until an error is believed."""


def has_identity(run_dir: Path) -> bool:
    """Whether a writer has opened this directory before, if only to be killed."""
    return (run_dir / "checkpoints" / IDENTITY_NAME).exists()


def read_identity(run_dir: Path, ring: KeyRing) -> RunIdentity | None:
    """Which run a directory is of; None if nothing that the keys vouch for tells it.

    Where its identity file is missing or damaged, most of its checkpoints decide, and the oldest where as
    many are of one run as of another: a few may have been copied here.
    """
    directory = run_dir / "checkpoints"
    try:
        stored = _read(directory / IDENTITY_NAME, ring)
    except UnknownKey:
        stored = None
    return stored or _of_most(directory, ring)


def require_own_ring(run_dir: Path, ring: KeyRing) -> None:
    """Refuses a ring that vouches for nothing here, and that is not the one which this run was sealed by.

    An older copy of the right one still vouches for what is older: that can be read.

    Raises:
        CheckpointError: the ring is that of another run.
    """
    directory = run_dir / "checkpoints"
    if _of_most(directory, ring) is not None:
        return
    try:
        if _read(directory / IDENTITY_NAME, ring) is None:
            _check_newest(directory, ring)
    except UnknownKey as error:
        raise _foreign(run_dir, error) from error


def _foreign(run_dir: Path, error: UnknownKey) -> CheckpointError:
    return CheckpointError(
        f"{run_dir / 'checkpoints'} cannot be vouched for: {error}. The key ring {ring_path(run_dir)} is "
        "that of another run, or an older copy. Nothing was changed. Put the newest copy of this run's key "
        "ring there. If that one is lost for good, move what it sealed to another place first."
    )


def claim_run(
    run_dir: Path, ring: KeyRing, model: str | None, storage: Storage, random_bytes: Callable[[int], bytes]
) -> RunIdentity:
    """Makes a new directory this run's own, or checks that an old one is of the same model (None takes any).

    Raises:
        CheckpointError: it belongs to another model, and both are named; or the key ring is not that of this
            run, or an older copy of it. Nothing was changed.
    """
    directory = run_dir / "checkpoints"
    path = directory / IDENTITY_NAME
    try:
        stored = _read(path, ring)
        _check_newest(directory, ring)
    except UnknownKey as error:
        raise _foreign(run_dir, error) from error
    identity = stored or _of_most(directory, ring)
    checkpoints = list(newest_first(directory))
    if identity is None and checkpoints:
        raise CheckpointError(
            f"None of the {len(checkpoints)} checkpoints in {run_dir} can be verified, so nothing tells "
            f"which run it is of. Nothing was changed. `esper verify {run_dir}` says what is wrong "
            "with each. Choose another run directory."
        )
    if identity is not None and model is not None and identity.model != model:
        raise CheckpointError(
            f"The run directory {run_dir} belongs to another model: it holds checkpoints of "
            f"{identity.model!r}, and now {model!r} wants to save there. Choose another run directory, or "
            f"continue with the model that it belongs to."
        )
    if identity is None:
        identity = RunIdentity(id=random_bytes(8).hex(), model=UNNAMED if model is None else model)
    if stored is None and os.path.lexists(path):
        set_aside(storage, path)
    _write(path, identity, ring, storage)
    return identity


def reseal_identity(directory: Path, ring: KeyRing, storage: Storage) -> None:
    """Lets the primary key vouch for which run this is, if a key that is believed has done so.

    Raises:
        OSError: it could not be written; the old file is still there.
        UnknownKey: it is sealed by a key that the ring does not hold.
    """
    path = directory / IDENTITY_NAME
    if (stored := _read(path, ring)) is not None:
        _write(path, stored, ring, storage)


def _write(path: Path, identity: RunIdentity, ring: KeyRing, storage: Storage) -> None:
    sealed = ring.seal(_PURPOSE, identity.model_dump_json().encode())
    if not path.exists() or read_regular(path, _MAX_BYTES) != sealed:  # new, or sealed by an older key
        put_in_place(storage, path, sealed)


def _read(path: Path, ring: KeyRing) -> RunIdentity | None:
    """What the file says; None if it is not there, cannot be read or is damaged. UnknownKey is passed on."""
    for _ in range(_LOOKS):
        try:
            return RunIdentity.model_validate_json(ring.unseal(_PURPOSE, read_regular(path, _MAX_BYTES)))
        except UnknownKey as error:
            raise UnknownKey(f"{path.name}: {error}") from error
        except (OSError, CheckpointCorrupt, ValidationError):
            continue
    return None


def _check_newest(directory: Path, ring: KeyRing) -> None:
    """Raises UnknownKey if there is a later checkpoint than those that the keys vouch for, by another key."""
    for checkpoint in newest_first(directory):
        try:
            read_manifest(checkpoint, ring, "checkpoint")
        except UnknownKey as error:
            raise UnknownKey(f"{checkpoint.name}/{error}") from error
        except CheckpointCorrupt:
            continue
        return


def _of_most(directory: Path, ring: KeyRing) -> RunIdentity | None:
    runs: Counter[RunIdentity] = Counter()
    for checkpoint in reversed(list(newest_first(directory))):
        try:
            manifest, _ = read_manifest(checkpoint, ring, "checkpoint")
        except CheckpointCorrupt:
            continue
        runs[manifest.run] += 1
    return max(runs, key=runs.__getitem__, default=None)  # of as many, the first: the oldest
