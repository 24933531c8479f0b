"""Whose run directory this is: one sealed file, so that two models never share a history."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.manifest import RunIdentity
from esper.checkpoint.ring_file import ring_path
from esper.checkpoint.storage import Storage
from esper.checkpoint.writing import write_file
from esper.errors import CheckpointCorrupt, CheckpointError

IDENTITY_NAME = "RUN.json"
UNNAMED = "unnamed"
_PURPOSE = "esper run"
_MAX_BYTES = 1 << 16


def read_identity(run_dir: Path, ring: KeyRing) -> RunIdentity | None:
    """The identity of a run directory, or None if it has none yet.

    A damaged identity file costs nothing: the newest manifest that verifies says the same.

    Raises:
        CheckpointError: there are checkpoints, but the keys vouch for none of them.
    """
    path = run_dir / "checkpoints" / IDENTITY_NAME
    try:
        with path.open("rb") as file:
            return RunIdentity.model_validate_json(ring.unseal(_PURPOSE, file.read(_MAX_BYTES)))
    except (FileNotFoundError, CheckpointCorrupt, ValidationError):
        listing = CheckpointCatalog(run_dir, ring).list()
    if listing.checkpoints:
        return listing.checkpoints[-1].manifest.run
    if listing.rejected:
        newest = listing.rejected[-1]
        raise CheckpointError(
            f"None of the {len(listing.rejected)} checkpoints in {run_dir} can be verified with the key ring "
            f"{ring_path(run_dir)}: {newest}. Put the key ring of this run back, or choose another run "
            f"directory."
        )
    return None


def claim_run(
    run_dir: Path, ring: KeyRing, model: str | None, storage: Storage, random_bytes: Callable[[int], bytes]
) -> RunIdentity:
    """Makes a new directory this run's own, or checks that an old one is of the same model (None takes any).

    Raises:
        CheckpointError: it belongs to another model; both are named.
    """
    identity = read_identity(run_dir, ring)
    if identity is not None and model is not None and identity.model != model:
        raise CheckpointError(
            f"The run directory {run_dir} belongs to another model: it holds checkpoints of "
            f"{identity.model!r}, and now {model!r} wants to save there. Choose another run directory, or "
            f"continue with the model that it belongs to."
        )
    path = run_dir / "checkpoints" / IDENTITY_NAME
    if identity is None:
        identity = RunIdentity(id=random_bytes(8).hex(), model=UNNAMED if model is None else model)
    sealed = ring.seal(_PURPOSE, identity.model_dump_json().encode())
    if not path.is_file() or path.read_bytes() != sealed:
        temporary = path.with_name(f".tmp-{IDENTITY_NAME}-{os.getpid()}")
        write_file(storage, temporary, [memoryview(sealed)])
        if path.exists():
            storage.remove(
                path
            )  # damaged, or sealed by an older key; a crash here is repaired from the manifests
        storage.rename(temporary, path)
        storage.sync_directory(path.parent)
    return identity
