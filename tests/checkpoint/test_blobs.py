"""Files named by their own digest."""

from __future__ import annotations

from pathlib import Path

import blake3
import pytest

from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing
from tests.checkpoint.runs import content, debris, flip, names, open_store


def test_a_blob_is_named_by_its_digest_and_stored_once(store: CheckpointStore, tmp_path: Path) -> None:
    source = tmp_path / "twin.pt2"
    source.write_bytes(b"program")
    first = store.put_blob("twin", source)
    assert first.path == store.run_dir / "twin" / f"{blake3.blake3(b'program').hexdigest()}.pt2"
    assert store.put_blob("twin", b"program") == first
    assert first.read_bytes() == b"program"
    assert len(names(store.run_dir / "twin")) == 1


def test_a_corrupt_blob_is_replaced(store: CheckpointStore) -> None:
    blob = store.put_blob("twin", b"program")
    flip(blob.path, 2)
    assert store.put_blob("twin", b"program").read_bytes() == b"program"


def test_a_checkpoint_names_the_blobs_that_it_needs(store: CheckpointStore) -> None:
    blob = store.put_blob("twin", b"program")
    saved = store.save(1, 0, content(1), blobs={"twin": blob})
    assert store.catalog.blob(saved, "twin") == blob
    plain = store.save(2, 0, content(2))
    with pytest.raises(CheckpointMissing, match="names no 'twin' file; it names none"):
        store.catalog.blob(plain, "twin")
    flip(blob.path, 0)
    with pytest.raises(CheckpointCorrupt):
        store.catalog.blob(saved, "twin")
    assert not store.verify(saved).is_ok
    assert store.latest() == plain


def test_blobs_go_with_the_last_checkpoint_that_needs_them(run_dir: Path) -> None:
    with open_store(run_dir, keep_last=1) as store:
        old = store.put_blob("twin", b"old")
        store.save(1, 0, content(1), blobs={"twin": old})
        orphan = store.put_blob("twin", b"never needed")
    with open_store(run_dir, keep_last=1) as store:
        assert not orphan.path.exists()
        assert old.path.exists()
        new = store.put_blob("twin", b"new")
        store.save(2, 0, content(2), blobs={"twin": old})
        assert old.path.exists()
        store.save(3, 0, content(3), blobs={"twin": new})
        assert not old.path.exists()
        assert new.path.exists()


def test_blobs_that_change_with_every_checkpoint_go_with_them_and_the_last_one_stays(run_dir: Path) -> None:
    with open_store(run_dir, keep_last=2) as store:
        twins = [store.put_blob("twin", b"program 1")]
        for number in range(1, 6):
            store.save(number, 0, content(number), blobs={"twin": twins[-1]})
            twins.append(store.put_blob("twin", f"program {number + 1}".encode()))
        assert len(names(run_dir / "twin")) == 3
        for number in range(6, 9):
            store.save(number, 0, content(number))
        store.save(9, 0, content(9), blobs={"twin": twins[-1]})
        assert store.verify(store.catalog.at(9)).is_ok


def test_nothing_goes_while_a_manifest_cannot_be_read(run_dir: Path) -> None:
    with open_store(run_dir) as store:
        blob = store.put_blob("twin", b"program")
        saved = store.save(1, 0, content(1), blobs={"twin": blob})
        store.save(2, 0, content(2))
    flip(saved.path / "MANIFEST.json", 5)
    open_store(run_dir).close()
    assert blob.path.exists()


def test_an_unknown_kind_is_refused(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"kind 'hat' are not known. Known: twin"):
        store.put_blob("hat", b"")


@pytest.mark.parametrize("number", range(1, 12))
def test_a_failure_at_any_call_leaves_no_debris(run_dir: Path, number: int) -> None:
    open_store(run_dir).close()
    storage = FaultyStorage(fail_at=0)
    with open_store(run_dir, storage=storage) as store:
        storage.fail_at = len(storage.calls) + number
        failure: CheckpointError | None = None
        try:
            blob = store.put_blob("twin", b"program")
        except CheckpointError as error:
            failure = error
            blob = store.put_blob("twin", b"program")
        assert storage.fired == (failure is not None)
        assert failure is None or "A twin file was not stored" in str(failure)
        assert blob.read_bytes() == b"program"
        assert debris(run_dir) == []
