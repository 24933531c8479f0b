"""One file, written through: exclusive, hashed from the very bytes written, durable on return."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from esper.checkpoint.content import FileContent, Stream, stream
from esper.checkpoint.digests import WHOLE, Digest, FileHash
from esper.checkpoint.layout import temporary_path
from esper.checkpoint.storage import Storage, write_all

PIECE_BYTES = 4 << 20  # hashing and writing read it at about the same time, so it should fit the cache
BURST_BYTES = 16 << 20
"""So much is written before the disk is told to begin with it; a smaller file is not worth the calls."""
_LAG_BYTES = 64 << 20
_BATCH_BYTES = 1 << 20  # less is not worth another thread


@dataclass(frozen=True)
class Written:
    """What was written: size in bytes and BLAKE3 digests (hex)."""

    size: int
    digest: Digest


def write_file(
    storage: Storage,
    path: Path,
    content: Stream,
    *,
    header: bytes = b"",
    shard_bytes: int = WHOLE,
    is_lasting: bool = True,
) -> Written:
    """Creates `path` with mode 0600, writes the pieces and syncs them, in one pass.

    Hashing runs beside it in one thread, and goes on while the disk is waited for.

    Args:
        storage: the system calls.
        path: a name that is free.
        content: what to write.
        header: comes first and is not in the digest, so that it can be written anew.
        shard_bytes: how the digest is cut.
        is_lasting: whether a piece stays what it is when the next one is asked for.

    Raises:
        OSError: anything failed; the file may be left half written and is worth nothing.
    """
    descriptor = storage.create(path)
    try:
        pen = _Pen(storage, descriptor)
        if len(header) + content.size >= BURST_BYTES:
            storage.reserve(descriptor, len(header) + content.size)
        pen.write(memoryview(header))
        with _HashBeside(FileHash(shard_bytes), _LAG_BYTES if is_lasting else 0) as hashing:
            for whole in content.pieces:
                for piece in _split(whole):
                    hashing.begin(piece)
                    pen.write(piece)
                    hashing.catch_up()
            storage.sync(descriptor)
            return Written(pen.position, hashing.digest())
    finally:
        storage.close(descriptor)


def put_in_place(storage: Storage, path: Path, content: FileContent) -> None:
    """Writes a file under a name that may be taken: whoever reads it gets the old one or the new one, whole.

    A name that is there is written anew, never taken for durable: its sync may have failed, or never come.

    Raises:
        OSError: anything failed; the old file is still there, unless only the last sync failed.
    """
    with written_beside(storage, path, content) as (temporary, _):
        storage.replace(temporary, path)
    storage.sync_directory(path.parent)


@contextmanager
def written_beside(storage: Storage, path: Path, content: FileContent) -> Iterator[tuple[Path, Written]]:
    """A new, synced file in the directory of `path`; it is removed at the end unless it was moved away."""
    temporary = temporary_path(path)
    try:
        yield temporary, write_file(storage, temporary, stream(content))
    finally:
        if temporary.exists():
            storage.remove(temporary)


def _split(piece: memoryview) -> Iterable[memoryview]:
    flat = piece.cast("B")
    return (flat[start : start + PIECE_BYTES] for start in range(0, len(flat), PIECE_BYTES))


class _Pen:
    """Writes a file from its beginning, and has the disk begin before the last byte is written."""

    def __init__(self, storage: Storage, descriptor: int) -> None:
        self._storage = storage
        self._descriptor = descriptor
        self._begun = 0
        self.position = 0

    def write(self, data: memoryview) -> None:
        write_all(self._storage, self._descriptor, data)
        self.position += len(data)
        waiting = self.position - self._begun
        if waiting >= BURST_BYTES:
            self._storage.begin_sync(self._descriptor, self._begun, waiting)
            self._begun = self.position


class _HashBeside:
    """Hashes in a thread of its own, so many bytes behind at most: it lets the GIL go, as writing does.

    What is begun is not copied, and must stay as it is until `catch_up` returns, or, where it may be behind,
    as long as it is referred to.
    """

    def __init__(self, hasher: FileHash, lag_bytes: int) -> None:
        self._hasher = hasher
        self._lag_bytes = lag_bytes
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._batch: list[memoryview] = []
        self._batched = 0
        self._under_way: deque[tuple[int, Future[None]]] = deque()
        self._behind = 0

    def begin(self, piece: memoryview) -> None:
        self._batch.append(piece)
        self._batched += len(piece)
        if self._batched >= _BATCH_BYTES:
            self._under_way.append((self._batched, self._thread.submit(self._hash, self._batch)))
            self._behind += self._batched
            self._batch, self._batched = [], 0

    def catch_up(self) -> None:
        """Waits until it is not further behind than it may be."""
        while self._under_way and self._behind > self._lag_bytes:
            size, hashing = self._under_way.popleft()
            hashing.result()
            self._behind -= size
        if not self._under_way and not self._lag_bytes:
            self._hash_rest()

    def digest(self) -> Digest:
        for _, hashing in self._under_way:
            hashing.result()
        self._hash_rest()
        return self._hasher.digest()

    def _hash_rest(self) -> None:
        self._hash(self._batch)
        self._batch, self._batched = [], 0

    def _hash(self, pieces: Iterable[memoryview]) -> None:
        for piece in pieces:
            self._hasher.update(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
