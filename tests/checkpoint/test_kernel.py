"""The calls of Linux that make a save quicker."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from esper.checkpoint.kernel import begin_writing, take_room


def test_room_is_taken_and_the_length_stays(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        take_room(file.fileno(), 1 << 20)
        status = os.fstat(file.fileno())
    assert status.st_size == 0
    assert sys.platform != "linux" or status.st_blocks * 512 >= 1 << 20


def test_what_goes_to_the_disk_early_stays_what_it_is(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+b", buffering=0) as file:
        file.write(b"x" * 10_000)
        begin_writing(file.fileno(), 0, 10_000)
    assert (tmp_path / "f").read_bytes() == b"x" * 10_000


def test_where_there_is_no_such_call_nothing_happens() -> None:
    reading, writing = os.pipe()
    take_room(writing, 100)
    begin_writing(writing, 0, 100)
    os.close(reading)
    os.close(writing)


def test_what_cannot_be_done_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as failure:
        take_room(-1, 100)
    assert failure.value.errno == errno.EBADF
    with pytest.raises(OSError, match="Bad file descriptor"):
        begin_writing(-1, 0, 100)
