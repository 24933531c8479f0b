"""What leaves a run directory, and what must not."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.storage import PosixStorage
from esper.checkpoint.store import CheckpointStore
from tests.checkpoint.runs import RING, content, flip, holds, names, open_store


def steps(store: CheckpointStore) -> list[int]:
    return [ref.step for ref in store.list().checkpoints]


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """A file that cannot be read for a while, as on a network file system that does not answer."""
    path.rename(path.with_name("away"))
    yield
    (away,) = path.parent.parent.rglob("away")  # its directory may have been set aside
    away.rename(away.with_name(path.name))


@pytest.mark.parametrize("name", ["note.bin", "MANIFEST.json"])
def test_what_cannot_be_read_is_set_aside_whole_and_can_be_put_back(run_dir: Path, name: str) -> None:
    with open_store(run_dir) as store:
        for step in (1, 2, 3):
            store.save(step, 0, content(step))
    path = run_dir / "checkpoints" / "step-000000003"
    with open_store(run_dir) as store:
        with unreadable(path / name):
            search = store.search()
            assert search.found is not None
            assert search.found.step == 2
        assert store.set_aside_after(search.found) == (path,)
        aside = store.aside[path]
        assert steps(store) == [1, 2]
        assert CheckpointCatalog(run_dir, RING).aside() == (aside,)
    aside.rename(path)
    with open_store(run_dir) as store:
        latest = store.latest()
        assert latest is not None
        assert holds(latest, 3)


def test_a_rollback_deletes_what_verifies_and_sets_aside_what_did_not(store: CheckpointStore) -> None:
    store.keep_last = 4
    saved = [store.save(step, 0, content(step)) for step in (1, 2, 3, 4)]
    with unreadable(saved[1].path / "note.bin"):
        assert not store.verify(saved[1]).is_ok
    flip(saved[2].path / "MANIFEST.json", 30)
    assert store.withdraw_after(saved[0]) == tuple(ref.path for ref in reversed(saved[1:]))
    assert set(store.aside) == {saved[1].path, saved[2].path}
    assert not saved[3].path.exists()
    assert (store.aside[saved[1].path] / "note.bin").read_bytes() == content(2)["note.bin"]
    assert store.latest() == saved[0]


def test_a_save_sets_aside_what_holds_its_place_and_does_not_verify(store: CheckpointStore) -> None:
    store.save(1, 0, content(1))
    second = store.save(2, 0, content(2))
    with unreadable(second.path / "note.bin"):
        again = store.save(2, 1, content(2))
    assert store.latest() == again
    (aside,) = store.aside.values()
    assert len(names(aside)) == 3
    store.withdraw_after(store.catalog.at(1))
    assert aside.exists()


def test_an_attachment_that_does_not_verify_is_set_aside_too(store: CheckpointStore) -> None:
    base = store.save(1, 0, content(1))
    mask = store.commit_attachment(base, "mask-01", {"m": b"1"})
    with unreadable(mask.path / "m"):
        store.commit_attachment(base, "mask-01", {"m": b"2"})
    assert [one.file("m").read_bytes() for one in store.attachments(base).found] == [b"2"]
    assert store.attachments(base).rejected == ()
    assert (store.aside[mask.path] / "m").read_bytes() == b"1"


def test_what_was_set_aside_keeps_the_blobs_that_it_needs(run_dir: Path) -> None:
    with open_store(run_dir) as store:
        first = store.save(1, 0, content(1))
        blob = store.put_blob("twin", b"program")
        store.save(2, 0, content(2), blobs={"twin": blob})
        store.set_aside_after(first)
    with open_store(run_dir, keep_last=1) as store:
        for step in (3, 4):
            store.save(step, 0, content(step))
        assert steps(store) == [4]
        assert blob.path.exists()
        (aside,) = store.catalog.aside()
    flip(aside / "MANIFEST.json", 30)
    open_store(run_dir).close()
    assert blob.path.exists()


class Stubborn(PosixStorage):
    """Refuses to remove files whose name is in `kept`."""

    def __init__(self, *kept: str) -> None:
        super().__init__()
        self.kept = kept

    def remove(self, path: Path) -> None:
        if path.name in self.kept:
            raise OSError(errno.EPERM, "Operation not permitted", str(path))
        super().remove(path)


def leave_debris(run_dir: Path) -> None:
    for folder in ("checkpoints/.tmp-step-000000002-1", "checkpoints/.del-step-000000003-1"):
        (run_dir / folder).mkdir()
        (run_dir / folder / "half").touch()
    for file in ("twin/.tmp-new-1", f"twin/{'0' * 64}.pt2", "checkpoints/pins/step-000000009.baseline"):
        (run_dir / file).parent.mkdir(exist_ok=True)
        (run_dir / file).touch()


def test_debris_that_nobody_may_remove_keeps_nobody_from_working(
    run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_store(run_dir).close()
    leave_debris(run_dir)
    kept = ("half", ".tmp-new-1", f"{'0' * 64}.pt2", "step-000000009.baseline")
    caplog.set_level(logging.WARNING, "esper")
    with open_store(run_dir, storage=Stubborn(*kept)) as store:
        assert store.swept == ()
        assert holds(store.save(2, 0, content(2)), 2)
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == 5
        assert all("cannot be removed" in text and "Operation not permitted" in text for text in told)
        store.save(3, 0, content(3))
        assert len(caplog.records) == 5
    with open_store(run_dir) as store:
        assert len(store.swept) == 3
        assert store.pins() == {}


def test_a_directory_that_cannot_be_listed_keeps_nobody_from_working(run_dir: Path) -> None:
    class Dim(PosixStorage):
        def list(self, directory: Path) -> list[str]:
            if directory.name == "step-000000001":
                raise OSError(errno.EIO, "Input/output error", str(directory))
            return super().list(directory)

    with open_store(run_dir) as store:
        store.save(1, 0, content(1))
    with open_store(run_dir, storage=Dim()) as store:
        store.save(2, 0, content(2))
        assert steps(store) == [1, 2]


def test_retention_goes_on_where_one_directory_cannot_be_emptied(run_dir: Path) -> None:
    with open_store(run_dir, keep_last=3, storage=Stubborn("odd")) as store:
        for step in (1, 2, 3):
            store.save(step, 0, content(step) | ({"odd": b"x"} if step == 1 else {}))
        store.keep_last = 1
        store.save(4, 0, content(4))
        assert steps(store) == [4]
        assert [path.name for path in store.retention.removed] == ["step-000000003", "step-000000002"]
        assert "odd: Operation not permitted" in store.retention.failed[0]
