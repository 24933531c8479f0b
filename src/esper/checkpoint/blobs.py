"""Files named by their own digest, such as exported twins: shared by the checkpoints that need them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from esper.checkpoint.catalog import blob_path
from esper.checkpoint.commit import TEMPORARY_PREFIX, sweep
from esper.checkpoint.content import pieces
from esper.checkpoint.manifest import BLOB_SUFFIXES
from esper.checkpoint.references import FileRef, Listing
from esper.checkpoint.storage import Storage, make_directories
from esper.checkpoint.writing import write_file
from esper.errors import CheckpointError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobShelf:
    """The content-addressed files of one run directory; only the holder of the writer lock may change it."""

    def __init__(self, run_dir: Path, storage: Storage) -> None:
        self._run_dir = run_dir
        self._storage = storage
        self._fresh: set[Path] = set()

    def put(self, kind: str, content: bytes | Path) -> FileRef:
        """Writes a file under its digest; bytes that are there already are verified and used."""
        if kind not in BLOB_SUFFIXES:
            raise CheckpointError(f"Files of kind {kind!r} are not known. Known: {', '.join(BLOB_SUFFIXES)}.")
        directory = self._run_dir / kind
        make_directories(self._storage, directory)
        temporary = directory / f"{TEMPORARY_PREFIX}{os.getpid()}"
        try:
            written = write_file(self._storage, temporary, pieces(content))
            file = FileRef(blob_path(self._run_dir, kind, written.blake3), written.size, written.blake3)
            self._fresh.add(file.path)
            if file.path.exists():
                if file.problem() is None:
                    self._storage.remove(temporary)
                    return file
                self._storage.remove(file.path)
            self._storage.rename(temporary, file.path)
        except BaseException:
            if temporary.exists():
                self._storage.remove(temporary)
            raise
        self._storage.sync_directory(directory)
        return file

    def sweep(self) -> list[Path]:
        """Removes what an interrupted `put` left."""
        return [path for kind in BLOB_SUFFIXES for path in sweep(self._storage, self._run_dir / kind)]

    def collect(self, listing: Listing) -> None:
        """Removes files that no checkpoint needs; nothing goes as long as one manifest cannot be read."""
        if listing.rejected:
            return
        needed = {
            blob_path(self._run_dir, kind, entry.blake3)
            for checkpoint in listing.checkpoints
            for kind, entry in checkpoint.manifest.blobs.items()
        }
        for kind, suffix in BLOB_SUFFIXES.items():
            directory = self._run_dir / kind
            for name in self._storage.list(directory):
                path = directory / name
                if _DIGEST.fullmatch(name.removesuffix(suffix)) and path not in needed | self._fresh:
                    self._storage.remove(path)
