"""Opening a run directory to write in it: made, locked, found to be the right one, and swept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from esper.checkpoint.audit import Audit, open_audit
from esper.checkpoint.blobs import BlobShelf
from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.clearance import Clearance
from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.explain import explained
from esper.checkpoint.identity import claim_run, has_identity
from esper.checkpoint.lock import WriterLock
from esper.checkpoint.manifest import RunIdentity
from esper.checkpoint.storage import Storage, make_directories
from esper.nissa import Sink


@dataclass(frozen=True)
class OpenRun:
    """A run directory that this process writes.

    Attributes:
        lock: held until it is released.
        identity: which run this is, and of which model.
        catalog: what lies in it.
        blobs: its content-addressed files.
        clearance: what may go from it.
        swept: what an interrupted writer had left and this start removed.
        audit: what is told of it.
    """

    lock: WriterLock
    identity: RunIdentity
    catalog: CheckpointCatalog
    blobs: BlobShelf
    clearance: Clearance
    swept: tuple[Path, ...]
    audit: Audit


def open_run(
    run_dir: Path,
    keyring: KeyRing,
    model: str | None,
    storage: Storage,
    random_bytes: Callable[[int], bytes],
    sink: Sink,
    clock: Callable[[], float],
) -> OpenRun:
    """Opens a run directory as its one writer; arguments as for `CheckpointStore`.

    Raises:
        CheckpointError: it cannot be written, has another writer, or is of another model.
    """
    directory = run_dir / "checkpoints"
    with explained(f"The run directory {run_dir} cannot be used"):
        if not has_identity(run_dir):  # it was written after all names above it were durable
            make_directories(storage, directory)
        lock = WriterLock(directory)
    try:
        with explained(f"The run directory {run_dir} cannot be used"):
            blobs = BlobShelf(run_dir, storage)
            identity = claim_run(run_dir, keyring, model, storage, random_bytes)
            catalog = CheckpointCatalog(run_dir, keyring, run=identity)
            clearance = Clearance(catalog, blobs, storage, sink)
            swept = clearance.begin()
            audit = open_audit(run_dir, keyring, identity.id, catalog, storage, sink, clock)
            return OpenRun(lock, identity, catalog, blobs, clearance, swept, audit)
    except BaseException:
        lock.release()
        raise
