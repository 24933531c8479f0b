"""The digest of a file, in parts: a file is verified on all cores, and what is damaged in it has a place.

A file up to 4 MiB has the BLAKE3 of its bytes. A longer one is cut into shards of 4 MiB (the last one less),
each with a BLAKE3 of its own, and has the BLAKE3 of these, as bytes one after the other.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import blake3

SHARD_BYTES = 4 << 20
WHOLE = 1 << 62
"""As the size of a shard: the file has one digest, as other tools compute it."""
_PIECE_BYTES = 256 << 10  # small enough for the cache: hashing reads it again
_MAX_THREADS = 8

_PROCESS = secrets.token_hex(8)

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Digest:
    """BLAKE3 digests (hex): of the file, and of each shard if it has more than one."""

    blake3: str
    shards: tuple[str, ...] = ()


class FileHash:
    """Takes the bytes of one file in order."""

    def __init__(self, shard_bytes: int) -> None:
        self._shard_bytes = shard_bytes
        self._hasher = blake3.blake3()
        self._room = shard_bytes
        self._shards: list[str] = []

    def update(self, data: memoryview) -> None:
        while len(data):
            if not self._room:
                self._shards.append(self._hasher.hexdigest())
                self._hasher.reset()
                self._room = self._shard_bytes
            part = data[: self._room]
            self._hasher.update(part)
            self._room -= len(part)
            data = data[len(part) :]

    def digest(self) -> Digest:
        """Of what was taken; the last call."""
        return joined([*self._shards, self._hasher.hexdigest()])


def joined(shards: Sequence[str]) -> Digest:
    """The digest of a file from those of its shards, at least one."""
    if len(shards) == 1:
        return Digest(shards[0])
    return Digest(blake3.blake3(bytes.fromhex("".join(shards))).hexdigest(), tuple(shards))


@dataclass(frozen=True)
class FileState:
    """What the file system tells this process of a file; it changes when that is written to or replaced.

    Another process never finds the same state: what one has seen, the next one sees for itself.
    """

    process: str
    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileState:
        process = f"{_PROCESS}-{os.getpid()}"  # a forked child is another one
        return cls(
            process, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


def count_shards(size: int, shard_bytes: int) -> int:
    """How many shards so many bytes have; nothing has one."""
    return max(1, -(-size // shard_bytes))


def shards_of(descriptor: int, start: int, shard_bytes: int) -> tuple[int, list[str]]:
    """Reads a file once, on all cores; returns where it ends, and the digest of each shard from `start` on.

    By calls that read: a page of a mapped file that cannot be had would end the process. A small piece for
    each thread is in memory. What is there in excess of the size that the file has now is read, too.
    """
    size = os.fstat(descriptor).st_size
    count = count_shards(size - start, shard_bytes)

    def read(number: int) -> tuple[int, str]:
        first = start + number * shard_bytes
        is_last = number == count - 1
        return _hashed(descriptor, first, first + (WHOLE if is_last else shard_bytes))

    parts = in_threads(read, count)
    return parts[-1][0], [digest for _, digest in parts]


def in_threads(work: Callable[[int], _Result], count: int) -> list[_Result]:
    """Does work number 0 to `count` - 1, as many at a time as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = min(count, cores, _MAX_THREADS)
    if threads < 2:
        return [work(number) for number in range(count)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, range(count)))


def _hashed(descriptor: int, first: int, stop: int) -> tuple[int, str]:
    """Where it ended, `stop` at the latest, and the digest."""
    hasher, piece = blake3.blake3(), memoryview(bytearray(_PIECE_BYTES))
    while count := os.preadv(descriptor, [piece[: min(_PIECE_BYTES, stop - first)]], first):
        hasher.update(piece[:count])
        first += count
    return first, hasher.hexdigest()
