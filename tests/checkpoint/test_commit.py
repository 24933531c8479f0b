"""The commit protocol, call by call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from esper.checkpoint.commit import commit_directory, discard_directory, set_aside, sweep
from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.layout import former_name, temporary_path
from esper.checkpoint.manifest import FileEntry
from esper.checkpoint.storage import PosixStorage
from tests.checkpoint.runs import names


def seal(entries: Mapping[str, FileEntry]) -> bytes:
    return ",".join(entries).encode()


CALLS = [
    "make_directory",
    *("create", "write", "sync"),  # a
    *("create", "sync"),  # b is empty
    *("create", "write", "sync"),  # the manifest, last
    "sync_directory",
    "rename",
    "sync_directory",
]


def test_the_calls_come_in_the_order_that_makes_it_durable(tmp_path: Path) -> None:
    storage = FaultyStorage(fail_at=0)
    assert commit_directory(storage, tmp_path / "x", {"a": b"1", "b": b""}, seal) == b"a,b"
    assert [call for call in storage.calls if call != "write"] == [call for call in CALLS if call != "write"]
    assert names(tmp_path / "x") == ["MANIFEST.json", "a", "b"]


@pytest.mark.parametrize("number", range(1, len(CALLS) + 2))
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_failure_at_any_call_leaves_nothing(tmp_path: Path, number: int, error: str) -> None:
    storage = FaultyStorage(fail_at=number, error="EIO" if error == "EIO" else "ENOSPC", lasting=False)
    if number > len(CALLS):
        commit_directory(storage, tmp_path / "x", {"a": b"1", "b": b""}, seal)
        assert not storage.fired
        return
    with pytest.raises(OSError, match=rf"call {number}"):
        commit_directory(storage, tmp_path / "x", {"a": b"1", "b": b""}, seal)
    assert names(tmp_path) == []


def test_what_cannot_even_be_cleaned_up_is_noted_and_swept_later(tmp_path: Path) -> None:
    storage = FaultyStorage(fail_at=len(CALLS), lasting=True)
    with pytest.raises(OSError, match="call") as failure:
        commit_directory(storage, tmp_path / "x", {"a": b"1", "b": b""}, seal)
    assert "is left and will be swept" in failure.value.__notes__[0]
    assert names(tmp_path) == ["x"]


def test_a_commit_never_meets_what_a_writer_of_the_same_number_left(tmp_path: Path) -> None:
    left = {temporary_path(tmp_path / "x") for _ in range(3)}
    assert len(left) == 3
    for path in left:
        path.mkdir()
    commit_directory(PosixStorage(), tmp_path / "x", {"a": b"1"}, seal)
    assert len(names(tmp_path)) == 4


def test_a_commit_never_lands_on_an_existing_name(tmp_path: Path) -> None:
    commit_directory(PosixStorage(), tmp_path / "x", {"a": b"1"}, seal)
    with pytest.raises(FileExistsError):
        commit_directory(PosixStorage(), tmp_path / "x", {"a": b"2"}, seal)
    assert (tmp_path / "x" / "a").read_bytes() == b"1"
    assert names(tmp_path) == ["x"]


def test_an_interrupt_cleans_up_too(tmp_path: Path) -> None:
    def interrupted(entries: Mapping[str, FileEntry]) -> bytes:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commit_directory(PosixStorage(), tmp_path / "x", {"a": b"1"}, interrupted)
    assert names(tmp_path) == []


def test_a_directory_is_renamed_away_before_it_is_deleted_and_may_stay_so(tmp_path: Path) -> None:
    commit_directory(PosixStorage(), tmp_path / "x", {"a": b"1"}, seal)
    storage = FaultyStorage(fail_at=3)
    assert "Input/output error" in discard_directory(storage, tmp_path / "x")
    assert storage.calls == ["rename", "sync_directory", "remove"]
    assert [name.startswith(".del-x-") for name in names(tmp_path)] == [True]
    commit_directory(PosixStorage(), tmp_path / "x", {"a": b"2"}, seal)
    assert discard_directory(PosixStorage(), tmp_path / "x") == ""
    assert len(names(tmp_path)) == 1


def test_what_is_set_aside_is_whole_and_knows_its_former_name(tmp_path: Path) -> None:
    for content in (b"1", b"2"):
        commit_directory(PosixStorage(), tmp_path / "x", {"a": content}, seal)
        aside = set_aside(PosixStorage(), tmp_path / "x")
        assert (aside / "a").read_bytes() == content
        assert former_name(aside) == "x"
    assert len(names(tmp_path)) == 2
    assert former_name(tmp_path / "x") is None


def test_a_sweep_takes_only_what_was_interrupted(tmp_path: Path) -> None:
    for name in (".tmp-a-1", ".del-b-2", ".aside-c-12345678", "step-000000001", ".writer.lock"):
        (tmp_path / name).mkdir()
    swept = sweep(PosixStorage(), tmp_path)
    assert {path.name: why for path, why in swept.items()} == {".del-b-2": "", ".tmp-a-1": ""}
    assert names(tmp_path) == [".aside-c-12345678", ".writer.lock", "step-000000001"]
