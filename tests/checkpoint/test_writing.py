"""Writing one file through."""

from __future__ import annotations

from pathlib import Path

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.storage import PosixStorage
from esper.checkpoint.writing import PIECE_BYTES, Written, put_in_place, write_file
from tests.checkpoint.runs import names


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_size_and_digest_are_those_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("write") / "f"
    written = write_file(PosixStorage(), path, [memoryview(part) for part in parts])
    whole = b"".join(parts)
    assert path.read_bytes() == whole
    assert written == Written(len(whole), blake3.blake3(whole).hexdigest())


def test_a_large_piece_is_split_and_hashed_beside_the_writes(tmp_path: Path) -> None:
    storage = FaultyStorage(fail_at=2, error="short write")
    whole = bytes(range(256)) * (PIECE_BYTES // 256 + PIECE_BYTES // 512)
    written = write_file(storage, tmp_path / "f", [memoryview(whole)])
    assert storage.calls == ["create", "write", "write", "write", "sync"]
    assert storage.fired
    assert (tmp_path / "f").read_bytes() == whole
    assert written.blake3 == blake3.blake3(whole).hexdigest()


@pytest.mark.parametrize("size", [3, 2 << 20])
def test_a_write_that_takes_nothing_is_an_error(tmp_path: Path, size: int) -> None:
    class Stuck(PosixStorage):
        def write(self, descriptor: int, data: memoryview) -> int:
            return 0

    with pytest.raises(OSError, match="took no bytes"):
        write_file(Stuck(), tmp_path / "f", [memoryview(bytes(size))])


def test_nothing_is_written_over_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        write_file(PosixStorage(), tmp_path / "f", [memoryview(b"new")])
    assert (tmp_path / "f").read_bytes() == b"old"


def test_a_file_is_put_in_the_place_of_another_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for content in (b"old", b"new"):
        storage = FaultyStorage(fail_at=0)
        put_in_place(storage, path, [memoryview(content)])
        assert storage.calls == ["create", "write", "sync", "replace", "sync_directory"]
        assert path.read_bytes() == content
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("number", range(1, 6))
def test_a_failure_leaves_the_old_file_or_the_new_one_and_nothing_else(tmp_path: Path, number: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match=f"call {number}"):
        put_in_place(FaultyStorage(fail_at=number), path, [memoryview(b"new")])
    assert path.read_bytes() == (b"new" if number == 5 else b"old")
    assert names(tmp_path) == ["f"]
