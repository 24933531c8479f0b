"""Reading what others may have put there."""

from __future__ import annotations

import os
from pathlib import Path

import blake3
import pytest

from esper.checkpoint.reading import digest_of_file, open_regular, read_regular


@pytest.mark.parametrize("kind", ["pipe", "directory", "device"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "f"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    with pytest.raises(OSError, match="Not a regular file"):
        open_regular(path)


@pytest.mark.parametrize(("limit", "expected"), [(0, b""), (3, b"abc"), (9, b"abcdef")])
def test_no_more_than_the_limit_is_read(tmp_path: Path, limit: int, expected: bytes) -> None:
    (tmp_path / "f").write_bytes(b"abcdef")
    (tmp_path / "link").symlink_to("f")
    assert read_regular(tmp_path / "link", limit) == expected


@pytest.mark.parametrize("size", [0, 1, 256 << 10, (256 << 10) + 1])
def test_a_file_is_hashed_piece_by_piece(tmp_path: Path, size: int) -> None:
    raw = os.urandom(size)
    (tmp_path / "f").write_bytes(raw)
    assert digest_of_file(tmp_path / "f") == (size, blake3.blake3(raw).hexdigest())


def test_the_size_is_that_of_the_bytes_that_were_read(tmp_path: Path) -> None:
    said_to_be_empty = Path("/proc/self/status")
    assert said_to_be_empty.stat().st_size == 0
    assert digest_of_file(said_to_be_empty)[0] > 0
