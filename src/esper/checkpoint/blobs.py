"""Files named by their own digest, such as exported twins: shared by the checkpoints that need them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from esper.checkpoint.commit import sweep
from esper.checkpoint.file_ref import FileRef
from esper.checkpoint.layout import blob_path
from esper.checkpoint.manifest import BLOB_SUFFIXES, Manifest
from esper.checkpoint.storage import Storage, make_directory, try_to_remove
from esper.checkpoint.writing import written_beside
from esper.errors import CheckpointError

_DIGEST = re.compile(r"[0-9a-f]{64}")


class BlobShelf:
    """The content-addressed files of one run directory; only the holder of the writer lock may change it."""

    def __init__(self, run_dir: Path, storage: Storage) -> None:
        self._run_dir = run_dir
        self._storage = storage
        self._fresh: set[Path] = set()
        """What was put here and is needed by no checkpoint yet."""
        self._newest: dict[str, Path] = {}
        """What was put last, by kind: further checkpoints may need it."""

    def put(self, kind: str, content: bytes | Path) -> FileRef:
        """Writes a file under its digest; a copy that is there already is replaced by the new one."""
        if kind not in BLOB_SUFFIXES:
            raise CheckpointError(f"Files of kind {kind!r} are not known. Known: {', '.join(BLOB_SUFFIXES)}.")
        directory = self._run_dir / kind
        make_directory(self._storage, directory)
        with written_beside(self._storage, directory / "new", content) as (temporary, written):
            digest = written.digest.blake3
            file = FileRef(blob_path(self._run_dir, kind, digest), written.size, digest)
            self._fresh.add(file.path)
            self._newest[kind] = file.path
            self._storage.replace(temporary, file.path)
        self._storage.sync_directory(directory)
        return file

    def named(self, manifest: Manifest) -> None:
        """From now on these files go with the last checkpoint that needs them, unless they are the newest."""
        self._fresh -= self._needed_by([manifest])

    def sweep(self) -> dict[Path, str]:
        """Removes what an interrupted `put` left; see `commit.sweep`."""
        swept: dict[Path, str] = {}
        for kind in BLOB_SUFFIXES:
            swept |= sweep(self._storage, self._run_dir / kind)
        return swept

    def collect(self, manifests: Iterable[Manifest]) -> list[str]:
        """Removes files that none of these manifests needs; returns what could not be removed, and why."""
        needed = self._needed_by(manifests) | self._fresh | {*self._newest.values()}
        failed: list[str] = []
        for kind, suffix in BLOB_SUFFIXES.items():
            directory = self._run_dir / kind
            for name in self._storage.list(directory):
                path = directory / name
                if _DIGEST.fullmatch(name.removesuffix(suffix)) and path not in needed:
                    failed.append(try_to_remove(self._storage, path))
        return [why for why in failed if why]

    def _needed_by(self, manifests: Iterable[Manifest]) -> set[Path]:
        return {
            blob_path(self._run_dir, kind, entry.blake3)
            for manifest in manifests
            for kind, entry in manifest.blobs.items()
        }
