"""The system calls, and the fake that fails."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.storage import (
    PosixStorage,
    Storage,
    make_directories,
    remove_tree,
    settle_names,
)
from tests.checkpoint.runs import names

STORAGES: list[Callable[[], Storage]] = [PosixStorage, lambda: FaultyStorage(fail_at=0)]


@pytest.fixture(params=STORAGES, ids=["posix", "faulty that never fails"])
def storage(request: pytest.FixtureRequest) -> Storage:
    made: Storage = request.param()
    return made


def test_a_new_file_is_private_and_exclusive(storage: Storage, tmp_path: Path) -> None:
    path = tmp_path / "f"
    descriptor = storage.create(path)
    assert storage.write(descriptor, memoryview(b"abc")) == 3
    storage.sync(descriptor)
    storage.close(descriptor)
    assert path.read_bytes() == b"abc"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        storage.create(path)


def test_a_directory_is_private_and_exclusive(storage: Storage, tmp_path: Path) -> None:
    storage.make_directory(tmp_path / "d")
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700
    with pytest.raises(FileExistsError):
        storage.make_directory(tmp_path / "d")


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_a_rename_never_replaces_anything(storage: Storage, tmp_path: Path, kind: str) -> None:
    (tmp_path / "new").mkdir()
    old = tmp_path / "old"
    if kind == "file":
        old.write_text("x")
    elif kind == "directory":
        old.mkdir()
    else:
        old.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        storage.rename(tmp_path / "new", old)
    storage.rename(tmp_path / "new", tmp_path / "free")
    storage.sync_directory(tmp_path)
    assert storage.list(tmp_path) == ["free", "old"]


def test_a_directory_that_is_not_there_lists_nothing(storage: Storage, tmp_path: Path) -> None:
    assert storage.list(tmp_path / "none") == []


def test_removing_a_tree_does_not_follow_links(storage: Storage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "file").write_text("x")
    (tree / "link").symlink_to(outside)
    remove_tree(storage, tree)
    assert not tree.exists()
    assert (outside / "keep").exists()


def test_the_chosen_call_fails_with_the_chosen_error(tmp_path: Path) -> None:
    storage = FaultyStorage(fail_at=2, error="ENOSPC")
    storage.make_directory(tmp_path / "a")
    with pytest.raises(OSError, match="call 2: make_directory") as failure:
        storage.make_directory(tmp_path / "b")
    assert failure.value.errno == errno.ENOSPC
    storage.make_directory(tmp_path / "c")
    assert names(tmp_path) == ["a", "c"]
    assert storage.calls == ["make_directory"] * 3


def test_a_lasting_fault_leaves_only_removing(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "d").mkdir()
    storage = FaultyStorage(fail_at=1, error="ENOSPC", lasting=True)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            storage.create(tmp_path / "g")
    storage.remove(tmp_path / "f")
    storage.remove_directory(tmp_path / "d")
    assert names(tmp_path) == []


def test_a_short_write_takes_half_once(tmp_path: Path) -> None:
    storage = FaultyStorage(fail_at=1, error="short write")
    descriptor = storage.create(tmp_path / "f")
    assert [storage.write(descriptor, memoryview(data)) for data in (b"a", b"abcdef", b"abcdef")] == [1, 3, 6]
    storage.close(descriptor)


class Syncing(PosixStorage):
    """Notes which directories were synced."""

    def __init__(self) -> None:
        self.synced: list[Path] = []

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.synced.append(path)


@pytest.mark.parametrize("there", [0, 1, 2, 3])
def test_every_name_that_may_be_new_is_made_durable(tmp_path: Path, there: int) -> None:
    directory = tmp_path / "a" / "b" / "c"
    for made in (tmp_path / "a", tmp_path / "a" / "b", directory)[:there]:
        made.mkdir()
    storage = Syncing()
    make_directories(storage, directory)
    assert directory.is_dir()
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(storage.synced)


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a file system mounted there")
def test_names_above_a_mount_point_are_left_alone() -> None:
    storage = Syncing()
    settle_names(storage, Path("/dev/shm/run"))
    assert storage.synced == [Path("/dev/shm")]


def test_bytes_of_a_file_are_written_over_and_no_link_is_followed(storage: Storage, tmp_path: Path) -> None:
    path, link = tmp_path / "f", tmp_path / "link"
    path.write_bytes(b"0123456789")
    descriptor = storage.open_to_overwrite(path)
    assert storage.write_at(descriptor, memoryview(b"abc"), 4) == 3
    storage.close(descriptor)
    assert path.read_bytes() == b"0123abc789"
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        storage.open_to_overwrite(link)


def test_a_second_name_must_be_free(storage: Storage, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"a")
    storage.link(first, second)
    assert second.read_bytes() == b"a"
    with pytest.raises(FileExistsError):
        storage.link(first, second)
