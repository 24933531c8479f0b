"""Files are there whole or not at all, and what is of a run is its owner's."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.files import advice, hide, make_private, open_plain, write_new, write_over, write_private


def full() -> Iterator[str]:
    yield "half"
    raise OSError(errno.ENOSPC, "No space left on device")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_that_was_not_written_whole_leaves_its_name_free(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(OSError, match="No space left"):
        write_new(path, full())
    assert list(tmp_path.iterdir()) == []
    write_new(path, ["whole"])
    with pytest.raises(FileExistsError):
        write_new(path, ["another"])
    assert path.read_text() == "whole"


def test_what_is_written_over_is_there_until_the_new_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    (tmp_path / ".report.html.draft").write_text("of a process that was killed")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "\ud800")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    write_private(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o600)


def test_a_named_file_is_as_readable_as_the_umask_says_and_a_link_or_pipe_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link.svg").symlink_to(tmp_path / "net.svg")
    write_over(tmp_path / "link.svg", "<svg")
    assert (tmp_path / "link.svg").is_symlink()
    assert (tmp_path / "net.svg").read_text() == "<svg"
    assert mode(tmp_path / "net.svg") & 0o044 == 0o044 & ~_umask()
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_over(tmp_path / "pipe", "<svg")
    reader.join()
    assert read == ["<svg"]


def _umask() -> int:
    before = os.umask(0o022)
    os.umask(before)
    return before


def test_a_directory_of_a_run_is_its_owners_and_one_that_was_there_stays_as_it_is(tmp_path: Path) -> None:
    make_private(tmp_path / "runs" / "first")
    assert mode(tmp_path / "runs" / "first") == 0o700
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o750)
    make_private(tmp_path / "shared")
    assert mode(tmp_path / "shared") == 0o750
    file = tmp_path / "events"
    file.touch(0o644)
    hide(file)
    assert mode(file) == 0o600


def test_what_to_do_depends_on_what_is_wrong() -> None:
    assert "Free some space" in advice(OSError(errno.ENOSPC, ""))
    assert "Free some space" in advice(OSError(errno.EDQUOT, ""))
    assert advice(OSError(errno.EEXIST, "")) == "Name a new file."
    assert "directory" in advice(OSError(errno.EACCES, ""))


def test_what_may_have_no_end_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "plain")
    with open_plain(tmp_path / "link") as file:
        assert file.read() == b"text"
    os.mkfifo(tmp_path / "pipe")
    for other in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(OSError, match="It is no plain file"):
            open_plain(other)
