"""Reading what others may have put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from esper.checkpoint.reading import open_regular, read_regular


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
