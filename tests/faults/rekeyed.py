"""A run whose keys rotate, on a storage that fails, dies or records, and whether all in it still opens."""

from __future__ import annotations

import shutil
from pathlib import Path

from esper.checkpoint import (
    KERNELS,
    CheckpointStore,
    KeyRing,
    PosixStorage,
    SealedFolder,
    Storage,
    due,
    open_key_ring,
    rekey,
    replace_key_ring,
)
from esper.errors import CheckpointError


class Hasty(PosixStorage):
    """Does not wait for the disk: for what is about the order of calls, and not about a power cut."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


SECRET = b"a secret that takes more than one block" * 9


def begin(run_dir: Path, storage: Storage) -> KeyRing:
    """A run with a mask beside a checkpoint, one checkpoint that was set aside, and a kernel; its ring."""
    ring = open_key_ring(run_dir, create=True, environment={}, storage=storage)
    with CheckpointStore(run_dir, keyring=ring, model="net", storage=storage, clock=lambda: 1.5) as store:
        first = store.save(1, 0, {"trainer.json": SECRET}, pin="baseline")
        store.commit_attachment(first, "mask-01", {"masks.bin": SECRET})
        store.save(2, 0, {"note.bin": b"plain"})
        store.save(3, 0, {"note.bin": b"later"})
        store.set_aside_after(store.catalog.at(2))
        kernels(store, ring, storage).commit("kernel-1", {"weights.bin": SECRET})
    return ring


def kernels(store: CheckpointStore, ring: KeyRing, storage: Storage) -> SealedFolder:
    """Where the kernels of a run lie."""
    folder = SealedFolder(store.run_dir / KERNELS, ring, store.identity, storage, clock=lambda: 1.5)
    folder.open()
    return folder


def rotated(ring: KeyRing) -> KeyRing:
    """The ring with a new primary key."""
    added = ring.add()
    return added.promote(added.keys[-1].id)


def rotate(run_dir: Path, new: KeyRing, storage: Storage) -> None:
    """What `esper keys rotate` does to the files of a run."""
    replace_key_ring(run_dir / "keys" / "ring.json", new, storage)
    done = rekey(run_dir, new, due(run_dir, new), storage)
    assert (done.failed, done.wrapped.failed) == ((), ())


def problem(run_dir: Path, ring: KeyRing) -> str | None:
    """What does not open by a ring, or None."""
    with CheckpointStore(run_dir, keyring=ring, model="net", storage=Hasty()) as store:
        listing = store.list()
        if [ref.step for ref in listing.checkpoints] != [1, 2]:
            return f"only {listing} verify"
        if wrong := [
            report.problems for ref in listing.checkpoints if (report := store.verify(ref)).problems
        ]:
            return str(wrong)
        first = listing.checkpoints[0]
        masks = store.attachments(first)
        if [mask.name for mask in masks.found] != ["mask-01"]:
            return f"the mask does not verify: {masks.rejected}"
        opened = (first.file("trainer.json").read_bytes(), masks.found[0].file("masks.bin").read_bytes())
        if opened != (SECRET, SECRET):
            return "what was encrypted opens as something else"
        if listing.checkpoints[1].manifest.parent != first.digest:
            return "a manifest has lost its name"
        try:
            if kernels(store, ring, Hasty()).read("kernel-1").file("weights.bin").read_bytes() != SECRET:
                return "a kernel is something else"
        except CheckpointError as error:
            return f"a kernel does not verify: {error}"
        return None if store.catalog.manifests() else "what was set aside does not verify"


def copy_of(run_dir: Path, to: Path) -> Path:
    """The same run in another place."""
    return Path(shutil.copytree(run_dir, to, symlinks=True))
