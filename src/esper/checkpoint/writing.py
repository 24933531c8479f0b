"""One file, written through: exclusive, hashed from the very bytes written, durable on return."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import blake3

from esper.checkpoint.layout import temporary_path
from esper.checkpoint.storage import Storage, write_all

PIECE_BYTES = 4 << 20  # hashing and writing read it at the same time, so it should fit the cache
_HASH_BESIDE_BYTES = 1 << 20


@dataclass(frozen=True)
class Written:
    """What was written: size in bytes and BLAKE3 digest (hex)."""

    size: int
    blake3: str


def write_file(storage: Storage, path: Path, pieces: Iterable[memoryview], *, header: bytes = b"") -> Written:
    """Creates `path` with mode 0600, writes the pieces and syncs them; hashing runs beside writing.

    A header comes first and is not in the digest, so that it can be written anew.

    Raises:
        OSError: anything failed; the file may be left half written and is worth nothing.
    """
    hasher = blake3.blake3()
    size = len(header)
    descriptor = storage.create(path)
    try:
        write_all(storage, descriptor, memoryview(header))
        with ThreadPoolExecutor(max_workers=1) as beside:
            for whole in pieces:
                for piece in _split(whole):
                    size += len(piece)
                    if len(piece) < _HASH_BESIDE_BYTES:
                        hasher.update(piece)
                        write_all(storage, descriptor, piece)
                        continue
                    hashing = beside.submit(hasher.update, piece)  # hashing and writing both let the GIL go
                    try:
                        write_all(storage, descriptor, piece)
                    finally:
                        hashing.result()
        storage.sync(descriptor)
    finally:
        storage.close(descriptor)
    return Written(size, hasher.hexdigest())


def put_in_place(storage: Storage, path: Path, pieces: Iterable[memoryview]) -> None:
    """Writes a file under a name that may be taken: whoever reads it gets the old one or the new one, whole.

    A name that is there is written anew, never taken for durable: its sync may have failed, or never come.

    Raises:
        OSError: anything failed; the old file is still there, unless only the last sync failed.
    """
    with written_beside(storage, path, pieces) as (temporary, _):
        storage.replace(temporary, path)
    storage.sync_directory(path.parent)


@contextmanager
def written_beside(
    storage: Storage, path: Path, pieces: Iterable[memoryview]
) -> Iterator[tuple[Path, Written]]:
    """A new, synced file in the directory of `path`; it is removed at the end unless it was moved away."""
    temporary = temporary_path(path)
    try:
        yield temporary, write_file(storage, temporary, pieces)
    finally:
        if temporary.exists():
            storage.remove(temporary)


def _split(piece: memoryview) -> Iterable[memoryview]:
    flat = piece.cast("B")
    return (flat[start : start + PIECE_BYTES] for start in range(0, len(flat), PIECE_BYTES))
