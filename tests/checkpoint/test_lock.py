"""One writer for each run directory."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from esper.checkpoint.lock import WriterLock
from esper.errors import CheckpointError

HOLD = (
    "import sys, os; from pathlib import Path; from esper.checkpoint.lock import WriterLock; "
    "lock = WriterLock(Path(sys.argv[1])); child = {child}; print(child, flush=True); sys.stdin.readline()"
)


def hold(directory: Path, child: str = "0") -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(child=child), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_another_process_is_told_who_writes(tmp_path: Path) -> None:
    process, _ = hold(tmp_path)
    with process:
        with pytest.raises(CheckpointError, match=rf"being written by process {process.pid} on host"):
            WriterLock(tmp_path)
        process.kill()
    WriterLock(tmp_path).release()


def test_a_killed_writer_leaves_no_lock_even_if_its_children_live_on(tmp_path: Path) -> None:
    process, child = hold(tmp_path, "os.fork() or os.read(0, 1)")  # the child waits for input in vain
    with process:
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        WriterLock(tmp_path).release()
        os.kill(child, signal.SIGKILL)


def test_the_same_process_cannot_write_twice(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    held = [lock.is_held]
    with pytest.raises(CheckpointError, match="already being written by this process"):
        WriterLock(tmp_path)
    lock.release()
    lock.release()
    assert [*held, lock.is_held] == [True, False]
    WriterLock(tmp_path).release()


@pytest.mark.parametrize("name", [".writer.json", ".writer.lock"])
def test_a_pipe_in_the_place_of_a_file_is_never_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    if name == ".writer.json":
        WriterLock(tmp_path).release()
    else:
        with pytest.raises(OSError, match="Not a regular file"):
            WriterLock(tmp_path)


def test_a_forgotten_lock_goes_with_its_owner(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    del lock
    gc.collect()
    WriterLock(tmp_path).release()


@pytest.mark.parametrize("note", ["", "[]", json.dumps({"pid": 1, "process": "an earlier boot"})])
def test_a_note_that_a_crash_left_is_no_lock(tmp_path: Path, note: str) -> None:
    (tmp_path / ".writer.json").write_text(note)
    WriterLock(tmp_path).release()
    assert not (tmp_path / ".writer.json").exists()


def test_a_note_that_cannot_be_written_gives_the_lock_back(tmp_path: Path) -> None:
    (tmp_path / ".writer.json").mkdir()
    with pytest.raises(IsADirectoryError):
        WriterLock(tmp_path)
    (tmp_path / ".writer.json").rmdir()
    WriterLock(tmp_path).release()


def test_a_forked_child_holds_nothing_and_takes_nothing_from_its_parent(tmp_path: Path) -> None:
    child = "os._exit((lock.is_held, lock.release())[0])"
    process, child_holds = hold(tmp_path, f"os.waitpid(os.fork() or {child}, 0)[1]")
    with process:
        assert not child_holds
        with pytest.raises(CheckpointError, match=rf"being written by process {process.pid}"):
            WriterLock(tmp_path)
        process.kill()
