"""Writing one file through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.checkpoint.content import Stream
from esper.checkpoint.digests import Digest, FileHash
from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.storage import POSIX, PosixStorage
from esper.checkpoint.writing import BURST_BYTES, PIECE_BYTES, Written, put_in_place, write_file
from tests.checkpoint.runs import names


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_size_and_digest_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("write") / "f"
    written = write_file(PosixStorage(), path, streamed(*parts))
    whole = b"".join(parts)
    assert path.read_bytes() == whole
    assert written == Written(len(whole), Digest(blake3.blake3(whole).hexdigest()))


def streamed(*parts: bytes) -> Stream:
    return Stream(sum(map(len, parts)), [memoryview(part) for part in parts])


def test_a_large_piece_is_split_and_hashed_beside_the_writes(tmp_path: Path) -> None:
    storage = FaultyStorage(fail_at=2, error="short write")
    whole = bytes(range(256)) * (PIECE_BYTES // 256 + PIECE_BYTES // 512)
    written = write_file(storage, tmp_path / "f", streamed(whole))
    assert storage.calls == ["create", "write", "write", "write", "sync"]
    assert storage.fired
    assert (tmp_path / "f").read_bytes() == whole
    assert written.digest.blake3 == blake3.blake3(whole).hexdigest()


@pytest.mark.parametrize("is_lasting", [True, False])
def test_pieces_of_all_sizes_are_hashed_in_their_order(tmp_path: Path, is_lasting: bool) -> None:
    sizes = [7, 3 << 20, 1, 900_000, 200_000, 9 << 20, 5, 70 << 20, 11]
    parts = [bytes([number]) * size for number, size in enumerate(sizes)]
    room = bytearray(max(sizes))

    def fleeting() -> Iterator[memoryview]:
        for part in parts:
            room[: len(part)] = part
            yield memoryview(room)[: len(part)]

    pieces = streamed(*parts) if is_lasting else Stream(sum(sizes), fleeting())
    path = tmp_path / "f"
    written = write_file(POSIX, path, pieces, header=b"head", shard_bytes=1 << 20, is_lasting=is_lasting)
    whole = b"".join(parts)
    hashing = FileHash(1 << 20)
    hashing.update(memoryview(whole))
    assert path.read_bytes() == b"head" + whole
    assert written == Written(4 + len(whole), hashing.digest())


def test_a_large_file_has_its_room_first_and_goes_to_the_disk_while_it_is_written(tmp_path: Path) -> None:
    storage = FaultyStorage(fail_at=0)
    write_file(storage, tmp_path / "f", streamed(bytes(2 * BURST_BYTES + 1)))
    writes = ["write"] * (BURST_BYTES // PIECE_BYTES)
    assert storage.calls == ["create", "reserve", *2 * [*writes, "begin_sync"], "write", "sync"]
    assert (tmp_path / "f").stat().st_size == 2 * BURST_BYTES + 1


@pytest.mark.parametrize("number", range(1, 9))
def test_a_large_file_fails_at_every_call(tmp_path: Path, number: int) -> None:
    with pytest.raises(OSError, match=f"call {number}"):
        write_file(FaultyStorage(fail_at=number), tmp_path / "f", streamed(bytes(BURST_BYTES)))


@pytest.mark.parametrize("size", [3, 2 << 20])
def test_a_write_that_takes_nothing_is_an_error(tmp_path: Path, size: int) -> None:
    class Stuck(PosixStorage):
        def write(self, descriptor: int, data: memoryview) -> int:
            return 0

    with pytest.raises(OSError, match="took no bytes"):
        write_file(Stuck(), tmp_path / "f", streamed(bytes(size)))


def test_nothing_is_written_over_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_file(PosixStorage(), tmp_path / "f", streamed(b"new"))
    assert (tmp_path / "f").read_bytes() == b"old"


def test_a_file_is_put_in_the_place_of_another_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for content in (b"old", b"new"):
        storage = FaultyStorage(fail_at=0)
        put_in_place(storage, path, content)
        assert storage.calls == ["create", "write", "sync", "replace", "sync_directory"]
        assert path.read_bytes() == content
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("number", range(1, 6))
def test_a_failure_leaves_the_old_file_or_the_new_one_and_nothing_else(tmp_path: Path, number: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=f"call {number}"):
        put_in_place(FaultyStorage(fail_at=number), path, b"new")
    assert path.read_bytes() == (b"new" if number == 5 else b"old")
    assert names(tmp_path) == ["f"]
