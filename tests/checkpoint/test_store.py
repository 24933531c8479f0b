"""The writer of a run directory."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import torch

from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.faulty import Fault, FaultyStorage
from esper.checkpoint.file_ref import load_tensors
from esper.checkpoint.retention import BASELINE
from esper.checkpoint.storage import PosixStorage
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing
from tests.checkpoint.runs import RING, content, debris, flip, holds, names, open_store


def steps(store: CheckpointStore) -> list[int]:
    return [ref.step for ref in store.list().checkpoints]


def test_what_was_saved_is_found_and_private(store: CheckpointStore) -> None:
    assert store.latest() is None
    saved = store.save(1200, 3, content(1200))
    assert saved.path.name == "step-000001200"
    assert store.latest() == saved
    assert holds(saved, 1200)
    assert torch.equal(load_tensors(saved.file("model.safetensors"))["w"], torch.full((5, 3), 1200.0))
    assert store.verify(saved).is_ok
    for path in (store.run_dir / "checkpoints").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_the_newest_is_the_highest_step_and_follows_the_one_before(store: CheckpointStore) -> None:
    first = store.save(9, 0, content(9))
    second = store.save(1_000_000_000_000, 0, content(1_000_000_000_000))
    assert store.latest() == second
    assert (first.manifest.parent, second.manifest.parent) == (None, first.digest)


def test_a_good_checkpoint_is_never_overwritten(store: CheckpointStore) -> None:
    store.save(1, 0, content(1))
    with pytest.raises(CheckpointError, match="never overwritten"):
        store.save(1, 0, content(1))


def test_a_corrupt_checkpoint_is_passed_over_told_and_may_be_saved_again(store: CheckpointStore) -> None:
    first, second = store.save(1, 0, content(1)), store.save(2, 0, content(2))
    flip(second.path / "model.safetensors", 100)
    search = store.search()
    assert search.found == first
    assert [str(r) for r in search.rejected] == [
        "step-000000002: model.safetensors has other bytes than were saved (its BLAKE3 digest differs)"
    ]
    again = store.save(2, 0, content(2))
    assert store.latest() == again
    assert debris(store.run_dir) == []


def test_a_corrupt_manifest_is_listed_apart(store: CheckpointStore) -> None:
    store.save(1, 0, content(1))
    second = store.save(2, 0, content(2))
    flip(second.path / "MANIFEST.json", 30)
    listing = store.list()
    assert [ref.step for ref in listing.checkpoints] == [1]
    assert [rejection.path for rejection in listing.rejected] == [second.path]
    with pytest.raises(CheckpointCorrupt, match="MAC does not verify"):
        store.catalog.at(2)
    assert store.verify(second).problems[0].startswith("MANIFEST.json: its MAC")


def test_a_step_that_is_not_there_is_told_with_those_that_are(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointMissing, match="none at all yet"):
        store.catalog.at(7)
    store.save(1, 0, content(1))
    store.save(2, 0, content(2))
    with pytest.raises(CheckpointMissing, match=r"No checkpoint of step 7 .* There are: 1, 2"):
        store.catalog.at(7)


def test_directories_that_swapped_names_are_refused(store: CheckpointStore) -> None:
    store.save(1, 0, content(1))
    second = store.save(2, 0, content(2))
    second.path.rename(second.path.with_name("step-000000009"))
    search = store.search()
    assert search.found is not None
    assert search.found.step == 1
    assert "belongs to checkpoint 'step-000000002'" in search.rejected[0].reason


def test_a_step_is_spelled_in_one_way_only(store: CheckpointStore) -> None:
    saved = store.save(2, 0, content(2))
    other = saved.path.with_name("step-0000000002")
    manifest = saved.manifest.model_copy(update={"name": other.name})
    saved.path.rename(other)
    (other / "MANIFEST.json").write_bytes(manifest.to_bytes(RING))
    assert "its manifest is of step 2" in store.search().rejected[0].reason


def test_a_checkpoint_of_another_run_is_refused_even_under_the_same_keys(
    store: CheckpointStore, tmp_path: Path
) -> None:
    store.save(1, 0, content(1))
    with open_store(tmp_path / "other") as other:
        foreign = other.save(2, 0, content(2))
    foreign.path.rename(store.run_dir / "checkpoints" / "step-000000002")
    search = store.search()
    assert search.found is not None
    assert search.found.step == 1
    assert "saved by another run" in search.rejected[0].reason


def test_a_checkpoint_whose_place_was_taken_does_not_verify(store: CheckpointStore) -> None:
    old = store.save(1, 0, content(1))
    flip(old.path / "note.bin", 0)
    store.save(1, 0, content(1) | {"more": b"x"})
    assert store.verify(old).problems == ("another checkpoint has taken its place",)


def test_unlisted_names_are_told_and_harmless(store: CheckpointStore) -> None:
    saved = store.save(1, 0, content(1))
    store.commit_attachment(saved, "mask-01", {"m": b"1"})
    (saved.path / ".DS_Store").write_text("x")
    report = store.verify(saved)
    assert report.is_ok
    assert report.unlisted == (".DS_Store",)
    assert report.verified_bytes == saved.size_bytes


def test_retention_keeps_the_newest_and_the_pinned(store: CheckpointStore) -> None:
    store.save(0, 0, content(0), pin=BASELINE)
    for step in range(1, 7):
        saved = store.save(step, 0, content(step))
        if step == 2:
            store.pin(saved, "paper")
    assert steps(store) == [0, 2, 4, 5, 6]
    assert [path.name for path in store.retention.removed] == ["step-000000003"]
    assert store.pins() == {0: frozenset({BASELINE}), 2: frozenset({"paper"})}
    store.unpin(store.catalog.at(2), "paper")
    store.save(7, 0, content(7))
    assert steps(store) == [0, 5, 6, 7]


def test_a_checkpoint_that_is_read_outlives_any_number_of_saves(store: CheckpointStore) -> None:
    read = store.save(1, 0, content(1))
    with store.held(read), store.held(read):
        for step in range(2, 7):
            store.save(step, 0, content(step))
        assert steps(store) == [1, 4, 5, 6]
    with pytest.raises(KeyError), store.held(read):
        raise KeyError
    store.save(7, 0, content(7))
    assert steps(store) == [5, 6, 7]


def test_retention_counts_only_what_verifies(store: CheckpointStore) -> None:
    for step in (1, 2, 3):
        store.save(step, 0, content(step))
    flip(store.run_dir / "checkpoints" / "step-000000003" / "note.bin", 0)
    store.save(4, 0, content(4))
    assert steps(store) == [1, 2, 3, 4]
    store.save(5, 0, content(5))
    assert steps(store) == [2, 3, 4, 5]


def test_retention_that_fails_is_told_and_the_save_stands(run_dir: Path) -> None:
    storage = FaultyStorage(fail_at=0)
    with open_store(run_dir, keep_last=1, storage=storage) as store:
        store.save(1, 0, content(1))
        before = len(storage.calls)
        store.save(2, 0, content(2))
        calls = len(storage.calls) - before
        storage.fail_at = len(storage.calls) + calls  # the last call of the next save belongs to retention
        saved = store.save(3, 0, content(3))
        assert store.retention.removed == ()
        assert "Input/output error" in store.retention.failed[0]
        assert store.latest() == saved
        assert debris(run_dir) != []
    with open_store(run_dir) as store:
        assert [path.name.startswith(".del-step-000000002") for path in store.swept] == [True]
        assert debris(run_dir) == []


def test_an_attachment_is_committed_to_its_checkpoint_and_keeps_it(run_dir: Path) -> None:
    with open_store(run_dir, keep_last=1) as store:
        base = store.save(1, 0, content(1))
        mask = store.commit_attachment(base, "mask-01", {"masks.bin": b"101"})
        assert (mask.base, mask.name, mask.step) == (base.digest, "mask-01", 1)
        store.save(2, 0, content(2))
        store.save(3, 0, content(3))
        assert steps(store) == [1, 3]
        found = store.attachments(store.catalog.at(1))
        assert found.found == (mask,)
        assert found.found[0].file("masks.bin").read_bytes() == b"101"
        store.unpin(base, "mask-01")
        store.save(4, 0, content(4))
        assert steps(store) == [4]
        assert store.attachments(base).found == ()


def test_a_corrupt_attachment_is_told_and_may_be_committed_again(store: CheckpointStore) -> None:
    base = store.save(1, 0, content(1))
    good = store.commit_attachment(base, "mask-01", {"m": b"1"})
    bad = store.commit_attachment(base, "mask-02", {"m": b"2"})
    (base.path / "MANIFEST").mkdir()
    flip(bad.path / "m", 0)
    attachments = store.attachments(base)
    assert attachments.found == (good,)
    assert [rejection.path.name for rejection in attachments.rejected] == ["MANIFEST", "mask-02"]
    assert store.latest() == base
    store.commit_attachment(base, "mask-02", {"m": b"2"})
    assert [a.name for a in store.attachments(base).found] == ["mask-01", "mask-02"]


def test_an_attachment_is_never_overwritten_and_never_moves(store: CheckpointStore) -> None:
    first, second = store.save(1, 0, content(1)), store.save(2, 0, content(2))
    mask = store.commit_attachment(first, "mask-01", {"m": b"1"})
    with pytest.raises(CheckpointError, match="never overwritten"):
        store.commit_attachment(first, "mask-01", {"m": b"2"})
    mask.path.rename(second.path / "mask-01")
    assert "committed to another checkpoint" in store.attachments(second).rejected[0].reason


@pytest.mark.parametrize("name", ["", ".tmp-x", "a/b", "MANIFEST.json", "Mask"])
def test_an_attachment_has_a_plain_name(store: CheckpointStore, name: str) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        store.commit_attachment(store.save(1, 0, content(1)), name, {})


def test_nothing_is_attached_to_what_is_no_longer_there(store: CheckpointStore) -> None:
    old = store.save(1, 0, content(1))
    flip(old.path / "note.bin", 0)
    store.save(1, 0, content(1) | {"more": b"x"})
    with pytest.raises(CheckpointError, match="no longer the checkpoint"):
        store.commit_attachment(old, "mask-01", {})


def test_going_back_makes_an_older_checkpoint_the_newest(store: CheckpointStore) -> None:
    back = store.save(1, 0, content(1))
    for step in (2, 3):
        store.pin(store.save(step, 0, content(step)), "x")
    withdrawn = store.withdraw_after(back)
    assert [path.name for path in withdrawn] == ["step-000000003", "step-000000002"]
    assert store.latest() == back
    assert store.pins() == {}
    assert holds(store.save(2, 0, content(2)), 2)


def test_a_start_sweeps_what_was_interrupted(run_dir: Path) -> None:
    with open_store(run_dir) as store:
        base = store.save(1, 0, content(1))
        store.put_blob("twin", b"x")
    left = [
        run_dir / "checkpoints" / ".tmp-step-000000002-77",
        run_dir / "checkpoints" / ".del-step-000000000-77",
        base.path / ".tmp-mask-01-77",
        run_dir / "twin" / ".tmp-77",
    ]
    for path in left:
        path.mkdir()
        (path / "half").write_bytes(b"x")
    (run_dir / "checkpoints" / "pins").mkdir()
    (run_dir / "checkpoints" / "pins" / "step-000000002.baseline").touch()
    with open_store(run_dir) as store:
        assert sorted(store.swept) == sorted(left)
        assert store.pins() == {}
        assert store.latest() == base


def test_a_second_writer_in_the_same_process_is_refused_and_readers_are_not(store: CheckpointStore) -> None:
    saved = store.save(1, 0, content(1))
    with pytest.raises(CheckpointError, match="already being written by this process"):
        open_store(store.run_dir)
    assert CheckpointCatalog(store.run_dir, RING).latest() == saved


def test_a_closed_store_writes_no_more(run_dir: Path) -> None:
    store = open_store(run_dir)
    saved = store.save(1, 0, content(1))
    store.close()
    with pytest.raises(CheckpointError, match="was closed"):
        store.save(2, 0, content(2))
    assert store.latest() == saved


def test_at_least_one_checkpoint_has_to_stay(run_dir: Path) -> None:
    with pytest.raises(CheckpointError, match="at least 1"):
        open_store(run_dir, keep_last=0)


def test_a_file_in_the_way_of_the_run_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("x")
    with pytest.raises(CheckpointError, match="in the way"):
        open_store(tmp_path / "run")
    (tmp_path / "run2").mkdir()
    (tmp_path / "run2" / "checkpoints").write_text("x")
    with pytest.raises(CheckpointError, match="in the way"):
        open_store(tmp_path / "run2")
    with pytest.raises(CheckpointError, match="cannot be read: Not a directory"):
        CheckpointCatalog(tmp_path / "run2", RING).latest()


def test_a_directory_that_another_process_just_made_is_used(run_dir: Path) -> None:
    class Racing(PosixStorage):
        def make_directory(self, path: Path) -> None:
            path.mkdir()
            super().make_directory(path)

    open_store(run_dir, storage=Racing()).close()


def test_a_save_that_is_tried_again_after_a_full_disk_succeeds(run_dir: Path) -> None:
    storage = FaultyStorage(fail_at=0, error="ENOSPC")
    with open_store(run_dir, storage=storage) as store:
        old = store.save(1, 0, content(1))
        storage.fail_at = len(storage.calls) + 3
        says = r"Step 2 was not saved in .*disk is full.*\[ENOSPC\]"
        with pytest.raises(CheckpointError, match=says) as failure:
            store.save(2, 0, content(2), pin="x")
        assert isinstance(failure.value.__cause__, OSError)
        assert store.latest() == old
        assert holds(store.save(2, 0, content(2)), 2)


@pytest.mark.parametrize(("error", "says"), [("EROFS", "read-only"), ("EIO", "failing"), ("ENOSPC", "full")])
def test_a_directory_that_cannot_be_written_is_told(run_dir: Path, error: Fault, says: str) -> None:
    for number in range(1, 20):
        storage = FaultyStorage(fail_at=number, error=error)
        refusal: CheckpointError | None = None
        try:
            open_store(run_dir / str(number), storage=storage).close()
        except CheckpointError as raised:
            refusal = raised
        if not storage.fired:
            assert number > 5
            return
        assert says in str(refusal)
        assert f"[{error}]" in str(refusal)
        open_store(run_dir / str(number)).close()
    raise AssertionError("opening made more system calls than expected")


def test_a_directory_without_any_entry_lists_nothing(tmp_path: Path) -> None:
    assert CheckpointCatalog(tmp_path / "none", RING).list().checkpoints == ()
    assert names(tmp_path) == []
