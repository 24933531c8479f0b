"""What is done again after a kill or a failed sync is as durable as what was done the first time.

A name that is there may never have been synced: its maker was killed before it did, or the sync failed. Each
time the work is done again and acknowledged, and then the power fails: what is left is what no cut can take.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from esper.checkpoint import CheckpointStore
from esper.errors import CheckpointError
from tests.checkpoint.runs import content, holds, open_store
from tests.faults.disk import write_tree
from tests.faults.power import RecordingStorage


class Killed(BaseException):
    """The process is gone: not even cleaning up happens."""


class Mortal(RecordingStorage):
    """Dies before the call number `last`, counting those that change a directory; until `revive`."""

    def __init__(self, root: Path, last: int) -> None:
        super().__init__(root)
        self.last = last
        self.calls = 0

    def revive(self) -> None:
        self.last = 0

    def _cut(self) -> None:
        pass

    def _live(self) -> None:
        self.calls += 1
        if 0 < self.last <= self.calls:
            raise Killed

    def make_directory(self, path: Path) -> None:
        self._live()
        super().make_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self._live()
        super().rename(source, target)

    def replace(self, source: Path, target: Path) -> None:
        self._live()
        super().replace(source, target)

    def sync_directory(self, path: Path) -> None:
        self._live()
        super().sync_directory(path)

    def remove(self, path: Path) -> None:
        self._live()
        super().remove(path)

    def remove_directory(self, path: Path) -> None:
        self._live()
        super().remove_directory(path)


def live(storage: RecordingStorage) -> None:
    """Does what is not done yet: a pinned baseline with a twin, a mask beside it, a later checkpoint."""
    with open_store(storage.root / "run", keep_last=1, storage=storage) as store:
        base = store.latest()
        if base is None:
            twin = store.put_blob("twin", b"program")
            base = store.save(1, 0, content(1), blobs={"twin": twin}, pin="baseline")
        if base.step == 1:
            if not store.attachments(base).found:
                store.commit_attachment(base, "mask-01", {"masks.bin": b"101"})
            base = store.save(2, 0, content(2), blobs={"twin": store.put_blob("twin", b"program 2")})
        store.pin(base, "last")


def test_what_is_done_again_after_a_kill_survives_a_power_cut(tmp_path: Path) -> None:
    last, is_killed = 0, True
    while is_killed:
        last += 1
        storage = Mortal(tmp_path / f"recorded-{last}", last)
        storage.root.mkdir()
        is_killed = False
        try:
            live(storage)
        except Killed:
            is_killed = True
        (storage.root / "run" / "checkpoints" / ".writer.json").unlink(missing_ok=True)  # names this process
        storage.revive()
        live(storage)
        disk = tmp_path / f"disk-{last}"
        write_tree(storage.durable_tree(), disk)
        with open_store(disk / "run", keep_last=1) as store:
            newest = store.latest()
            assert newest is not None, last
            assert holds(newest, 2), last
            assert len(store.attachments(store.catalog.at(1)).found) == 1, last
            assert store.pins() == {1: {"baseline", "mask-01"}, 2: {"last"}}, last
    assert last > 40


class FailsOnce(RecordingStorage):
    """The sync number `due` from now on fails, once, as on a disk that is busy remapping a sector."""

    due = 0

    def _cut(self) -> None:
        pass

    def _count(self) -> None:
        self.due -= 1
        if self.due == 0:
            raise OSError(errno.EIO, "Input/output error")

    def sync(self, descriptor: int) -> None:
        self._count()
        super().sync(descriptor)

    def sync_directory(self, path: Path) -> None:
        self._count()
        super().sync_directory(path)


def save_with_a_blob(store: CheckpointStore) -> None:
    store.save(3, 0, content(3), blobs={"twin": store.put_blob("twin", b"program")})


def newest(store: CheckpointStore) -> int:
    found = store.latest()
    return found.step if found else 0


Work = Callable[[CheckpointStore], object]
WORKS: dict[str, tuple[Work, Callable[[CheckpointStore], bool]]] = {
    "save": (save_with_a_blob, lambda store: newest(store) == 3),
    "withdraw": (lambda store: store.withdraw_after(store.catalog.at(1)), lambda store: newest(store) == 1),
    "aside": (lambda store: store.set_aside_after(store.catalog.at(1)), lambda store: newest(store) == 1),
    "pin": (lambda store: store.pin(store.catalog.at(2), "x"), lambda store: "x" in store.pins()[2]),
    "unpin": (lambda store: store.unpin(store.catalog.at(2), "y"), lambda store: 2 not in store.pins()),
    "attach": (
        lambda store: store.commit_attachment(store.catalog.at(2), "mask-01", {"m": b"1"}),
        lambda store: bool(store.attachments(store.catalog.at(2)).found) and "mask-01" in store.pins()[2],
    ),
}


@pytest.mark.parametrize("name", WORKS)
def test_what_is_done_again_after_a_failed_sync_survives_a_power_cut(tmp_path: Path, name: str) -> None:
    work, is_done = WORKS[name]
    due, is_failed = 0, True
    while is_failed:
        due += 1
        storage = FailsOnce(tmp_path / f"recorded-{due}")
        storage.root.mkdir()
        with open_store(storage.root / "run", storage=storage) as store:
            for step in (1, 2):
                store.save(step, 0, content(step))
            store.pin(store.catalog.at(2), "y")
            storage.due = due
            try:
                work(store)
                is_failed = False
            except CheckpointError:
                work(store)
        write_tree(storage.durable_tree(), tmp_path / f"disk-{due}")
        with open_store(tmp_path / f"disk-{due}" / "run") as store:
            assert is_done(store), due
    assert due > 1
