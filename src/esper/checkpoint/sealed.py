"""What stands by itself in a run directory: committed and sealed as a checkpoint is, and believed no earlier.

A kernel is one: made for one slot of one run. Its manifest names run and directory, so that nothing can stand
in the place of something else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from esper.checkpoint.commit import commit_directory, discard_directory, set_aside, sweep
from esper.checkpoint.content import FileContent
from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.layout import names_in
from esper.checkpoint.manifest import FileEntry, Manifest, RunIdentity, read_manifest
from esper.checkpoint.references import SealedRef
from esper.checkpoint.storage import POSIX, Storage, make_directories
from esper.errors import CheckpointCorrupt, CheckpointMissing
from esper.leyline import Clock


class SealedFolder:
    """A folder of a run directory with sealed directories in it; its one writer is who holds the run.

    Args:
        path: of the folder; `open` makes it.
        ring: seals, and verifies.
        run: whose they are.
        storage: the system calls.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        path: Path,
        ring: KeyRing,
        run: RunIdentity,
        storage: Storage = POSIX,
        clock: Clock = time.time,
    ) -> None:
        self.path = path
        self._ring, self._run, self._storage, self._clock = ring, run, storage, clock

    def open(self) -> dict[Path, str]:
        """Makes the folder, and removes what a writer left that was killed; what could not be, and why."""
        make_directories(self._storage, self.path)
        return {path: why for path, why in sweep(self._storage, self.path).items() if why}

    def commit(self, name: str, files: Mapping[str, FileContent]) -> None:
        """Commits files as one directory; durable on return. One that has the name is set aside.

        Raises:
            OSError: nothing was committed, and the space was given back.
        """
        target = self.path / name

        def seal(entries: Mapping[str, FileEntry]) -> bytes:
            manifest = Manifest(
                kind="kernel",
                run=self._run,
                name=name,
                step=0,
                epoch=0,
                created_seconds=float(self._clock()),
                parent=None,
                files=dict(entries),
            )
            return manifest.to_bytes(self._ring)

        commit_directory(self._storage, target, files, seal, before_rename=lambda _: self._clear(target))

    def read(self, name: str) -> SealedRef:
        """What was committed under a name, once seal, run and name were checked; its files prove themselves.

        Raises:
            CheckpointMissing: there is nothing of that name.
            CheckpointCorrupt: nobody can vouch for it, or it is of another run.
        """
        path = self.path / name
        if not path.is_dir():
            raise CheckpointMissing(f"{path} is not there.")
        manifest, digest = read_manifest(path, self._ring, "kernel")
        if manifest.run != self._run:
            raise CheckpointCorrupt(f"it is of run {manifest.run}, and this is {self._run}")
        return SealedRef(path, manifest, digest, self._ring)

    def set_aside(self, name: str) -> Path:
        """Renames what nobody can vouch for out of the way; where it is now.

        Raises:
            OSError: it could not be.
        """
        return set_aside(self._storage, self.path / name)

    def keep_newest(self, count: int, size_bytes: int) -> None:
        """Discards the oldest until so many, of so many bytes in all, are left.

        Raises:
            OSError: one could not be removed.
        """
        names = [name for name in names_in(self.path) if not name.startswith(".")]
        paths = sorted((self.path / name for name in names), key=lambda path: path.stat().st_mtime_ns)
        sizes = [sum(file.stat().st_size for file in path.iterdir()) for path in paths]
        while len(paths) > 1 and (len(paths) > count or sum(sizes) > size_bytes):
            discard_directory(self._storage, paths.pop(0))
            sizes.pop(0)

    def _clear(self, target: Path) -> None:
        if target.exists():
            set_aside(self._storage, target)
