"""A confined process reads its file and answers; what else it tries has no effect and is named."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import pytest

from esper.workers.confinement import Caps, Confined, Kind, Stopped, can_filter, run_confined
from tests.workers.confinement import hostile

pytestmark = pytest.mark.skipif(not can_filter(), reason="this kernel confines no process")
CAPS = Caps(memory_bytes=256 << 20, seconds=20, answer_bytes=8 << 20)
Function = Callable[[BinaryIO], Iterable[bytes]]


def run(function: Function, file: Path, caps: Caps = CAPS) -> tuple[Confined | Stopped, bytes]:
    answer = io.BytesIO()
    with file.open("rb") as opened:
        ended = run_confined(function, opened, answer, caps)
    return ended, answer.getvalue()


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that a stranger is after."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    return victim


@pytest.fixture
def file(tmp_path: Path, victim: Path) -> Path:
    """A file of a stranger, who knows where the other is."""
    file = tmp_path / "file"
    file.write_text(str(victim))
    return file


def state(path: Path) -> tuple[object, ...]:
    found = path.stat()
    return path.read_bytes(), found.st_mode, found.st_mtime_ns, os.listxattr(path)


def test_an_honest_function_reads_uses_threads_answers_and_sees_no_secrets(
    file: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESPER_KEY_RING", "secret")
    ended, answer = run(hostile.honest, file)
    assert isinstance(ended, Confined), ended
    assert ended.is_filtered
    assert answer.startswith(str(victim).encode())
    assert b"ESPER_KEY_RING" not in answer


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (hostile.write, Kind.WRITE),
        (hostile.append, Kind.WRITE),
        (hostile.truncate, Kind.WRITE),
        (hostile.remove, Kind.WRITE),
        (hostile.open_up, Kind.WRITE),
        (hostile.touch, Kind.WRITE),
        (hostile.mark, Kind.WRITE),
        (hostile.execute, Kind.START),
        (hostile.fork, Kind.START),
        (hostile.signal_parent, Kind.OTHER),
        (hostile.raise_the_caps, Kind.OTHER),
        (hostile.hoard, Kind.MEMORY),
        (hostile.pour, Kind.SIZE),
        (hostile.crash, Kind.DIED),
    ],
)
def test_what_is_tried_has_no_effect_and_is_named(
    function: Function, kind: Kind, file: Path, victim: Path
) -> None:
    before = state(file), state(victim), sorted(file.parent.iterdir())
    ended, _ = run(function, file)
    assert isinstance(ended, Stopped), ended
    assert ended.kind is kind, ended
    assert before == (state(file), state(victim), sorted(file.parent.iterdir()))


def test_another_file_is_not_read_where_the_kernel_has_landlock(file: Path) -> None:
    honest, _ = run(hostile.honest, file)
    ended, answer = run(hostile.read_another, file)
    if isinstance(honest, Confined) and honest.is_narrowed:
        assert isinstance(ended, Stopped)
        assert ended.kind is Kind.READ
        assert answer == b""


def test_nobody_is_connected_to(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        listening.setblocking(False)
        (tmp_path / "file").write_text(str(tmp_path / "s"))
        ended, _ = run(hostile.connect, tmp_path / "file")
        assert isinstance(ended, Stopped)
        assert ended.kind is Kind.CONNECT
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_calls_that_no_reader_needs_do_not_exist(file: Path) -> None:
    ended, answer = run(hostile.uncommon, file)
    assert isinstance(ended, Confined)
    assert answer == b"-1 -1 -1 "


def test_what_does_not_end_is_ended(file: Path) -> None:
    ended, _ = run(hostile.loop, file, Caps(256 << 20, 1, 1 << 20))
    assert isinstance(ended, Stopped)
    assert ended.kind is Kind.TIME


def test_last_words_are_short_and_printable(file: Path) -> None:
    ended, _ = run(hostile.lie, file)
    assert isinstance(ended, Stopped)
    assert ended.kind is Kind.UNREADABLE
    assert ended.text.startswith("ValueError: a?[31m lie")
    assert len(ended.text) <= 304
    assert ended.text == "ValueError: a?[31m lie ..."  # not in the middle of a word
