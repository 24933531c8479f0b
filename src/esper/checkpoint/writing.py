"""One new file, written through: exclusive, hashed from the very bytes written, durable on return."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import blake3

from esper.checkpoint.storage import Storage

PIECE_BYTES = 4 << 20  # hashing and writing read it at the same time, so it should fit the cache
_HASH_BESIDE_BYTES = 1 << 20


@dataclass(frozen=True)
class Written:
    """What was written: size in bytes and BLAKE3 digest (hex)."""

    size: int
    blake3: str


def write_file(storage: Storage, path: Path, pieces: Iterable[memoryview]) -> Written:
    """Creates `path` with mode 0600, writes the pieces and syncs them; hashing runs beside writing.

    Raises:
        OSError: anything failed; the file may be left half written and is worth nothing.
    """
    hasher = blake3.blake3()
    size = 0
    descriptor = storage.create(path)
    try:
        with ThreadPoolExecutor(max_workers=1) as beside:
            for whole in pieces:
                for piece in _split(whole):
                    size += len(piece)
                    if len(piece) < _HASH_BESIDE_BYTES:
                        hasher.update(piece)
                        _write_all(storage, descriptor, piece)
                        continue
                    hashing = beside.submit(hasher.update, piece)  # hashing and writing both let the GIL go
                    try:
                        _write_all(storage, descriptor, piece)
                    finally:
                        hashing.result()
        storage.sync(descriptor)
    finally:
        storage.close(descriptor)
    return Written(size, hasher.hexdigest())


def _split(piece: memoryview) -> Iterable[memoryview]:
    flat = piece.cast("B")
    return (flat[start : start + PIECE_BYTES] for start in range(0, len(flat), PIECE_BYTES))


def _write_all(storage: Storage, descriptor: int, data: memoryview) -> None:
    while len(data):
        count = storage.write(descriptor, data)
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO) + " (a write took no bytes)")
        data = data[count:]
