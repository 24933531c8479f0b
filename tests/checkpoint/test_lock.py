"""One writer for each run directory."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from esper.checkpoint.lock import WriterLock
from esper.errors import CheckpointError

Act = Callable[[WriterLock], int]


def do_nothing(lock: WriterLock) -> int:
    return 0


def leave_a_child(lock: WriterLock) -> int:
    """The process id of a child that lives until it is killed."""
    child = os.fork()
    if child == 0:
        signal.pause()
    return child


def let_a_child_go(lock: WriterLock) -> int:
    """Whether a child held the lock before it let go of it."""
    child = os.fork()
    if child == 0:
        was_held = lock.is_held
        lock.release()
        os._exit(was_held)
    return os.waitpid(child, 0)[1]


def take(directory: Path, act: Act, told: Connection) -> None:
    lock = WriterLock(directory)
    told.send(act(lock))
    told.recv()


@contextmanager
def held(directory: Path, act: Act = do_nothing) -> Iterator[tuple[int, int]]:
    """A process that holds the lock, its id and what `act` gave there; it is killed at the end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.dying"])  # one server for all tests that need processes
    here, there = context.Pipe()
    process = context.Process(target=take, args=(directory, act, there))
    process.start()
    answer = here.recv()
    assert process.pid is not None
    yield process.pid, answer
    process.kill()
    process.join()


def test_another_process_is_told_who_writes(tmp_path: Path) -> None:
    with held(tmp_path) as (pid, _), pytest.raises(CheckpointError, match=rf"by process {pid} on host"):
        WriterLock(tmp_path)
    WriterLock(tmp_path).release()


def test_a_killed_writer_leaves_no_lock_even_if_its_children_live_on(tmp_path: Path) -> None:
    with held(tmp_path, leave_a_child) as (_, child):
        pass
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
    with held(tmp_path, let_a_child_go) as (pid, was_held):
        assert not was_held
        with pytest.raises(CheckpointError, match=rf"being written by process {pid}"):
            WriterLock(tmp_path)
