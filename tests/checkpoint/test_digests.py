"""Digests of files, in parts."""

from __future__ import annotations

import os
from pathlib import Path

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.checkpoint.digests import WHOLE, Digest, FileHash, in_threads, joined, shards_of

SHARD = 1 << 10


def expected(raw: bytes, shard_bytes: int) -> Digest:
    shards = [
        blake3.blake3(raw[start : start + shard_bytes]) for start in range(0, max(1, len(raw)), shard_bytes)
    ]
    if len(shards) == 1:
        return Digest(shards[0].hexdigest())
    root = blake3.blake3(b"".join(shard.digest() for shard in shards)).hexdigest()
    return Digest(root, tuple(shard.hexdigest() for shard in shards))


@given(st.lists(st.integers(0, 3 * SHARD), max_size=5))
def test_however_the_bytes_come_the_digest_is_that_of_the_shards(sizes: list[int]) -> None:
    parts = [os.urandom(size) for size in sizes]
    hashing = FileHash(SHARD)
    for part in parts:
        hashing.update(memoryview(part))
    assert hashing.digest() == expected(b"".join(parts), SHARD)


@pytest.mark.parametrize("size", [0, 1, SHARD, SHARD + 1, 3 * SHARD, 700 << 10])
@pytest.mark.parametrize("shard_bytes", [SHARD, 300 << 10, WHOLE])
def test_a_file_is_read_on_all_cores(tmp_path: Path, size: int, shard_bytes: int) -> None:
    raw = os.urandom(size)
    (tmp_path / "f").write_bytes(b"head" + raw)
    with (tmp_path / "f").open("rb") as file:
        end, shards = shards_of(file.fileno(), 4, shard_bytes)
    assert end == size + 4
    assert joined(shards) == expected(raw, min(shard_bytes, 1 << 30))


def test_the_end_is_that_of_the_bytes_that_were_read() -> None:
    said_to_be_empty = Path("/proc/self/status")
    assert said_to_be_empty.stat().st_size == 0
    with said_to_be_empty.open("rb") as file:
        assert shards_of(file.fileno(), 0, SHARD)[0] > 0


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_work_is_done_once_each_and_comes_back_in_order(count: int) -> None:
    assert in_threads(lambda number: number * number, count) == [n * n for n in range(count)]


def test_a_failure_in_a_thread_is_raised() -> None:
    def fail(number: int) -> int:
        if number == 3:
            raise OSError(5, "bad sector")
        return number

    with pytest.raises(OSError, match="bad sector"):
        in_threads(fail, 9)
