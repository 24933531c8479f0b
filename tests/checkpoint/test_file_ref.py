"""Files that prove themselves."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import blake3
import pytest
import torch

from esper.checkpoint.digests import SHARD_BYTES
from esper.checkpoint.encrypted import HEADER_BYTES
from esper.checkpoint.file_ref import FileRef, examined, load_tensors
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointCorrupt
from tests.checkpoint.runs import content, flip, open_store


def reference(path: Path, raw: bytes) -> FileRef:
    path.write_bytes(raw)
    return FileRef(path, len(raw), blake3.blake3(raw).hexdigest())


@pytest.mark.parametrize("raw", [b"", b"some bytes"])
def test_a_good_file_is_read(tmp_path: Path, raw: bytes) -> None:
    file = reference(tmp_path / "f", raw)
    assert file.problem() is None
    assert file.verify() == file.path
    assert file.read_bytes() == raw


def test_altered_cut_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    file = reference(tmp_path / "f", b"some bytes")
    flip(file.path, 4)
    with pytest.raises(CheckpointCorrupt, match="other bytes than were saved"):
        file.read_bytes()
    file.path.write_bytes(b"some")
    with pytest.raises(CheckpointCorrupt, match="has 4 bytes instead of 10"):
        file.verify()
    file.path.unlink()
    for read in (file.verify, file.read_bytes):
        with pytest.raises(CheckpointCorrupt, match="cannot be read: No such file"):
            read()


def test_a_file_that_heals_while_it_is_read_is_still_refused(tmp_path: Path) -> None:
    file = reference(tmp_path / "f", b"some bytes")
    shrunk = replace(file, blake3=blake3.blake3(b"other text").hexdigest())

    class Healing(FileRef):
        def verify(self) -> Path:
            return self.path

    with pytest.raises(CheckpointCorrupt, match="changed while it was read"):
        Healing(shrunk.path, shrunk.size, shrunk.blake3).read_bytes()


def test_a_worker_maps_only_what_it_needs_and_holds_no_key(store: CheckpointStore) -> None:
    file = store.save(1, 0, content(1)).file("model.safetensors")
    assert list(load_tensors(file, ["n"])) == ["n"]
    assert torch.equal(load_tensors(file)["w"], torch.full((5, 3), 1.0))
    flip(file.path, file.size - 1)
    with pytest.raises(CheckpointCorrupt):
        load_tensors(file, ["n"])


LARGE = "large.bin"


@pytest.fixture(params=[LARGE, "importance.safetensors"], ids=["plain", "encrypted"])
def large(request: pytest.FixtureRequest, store: CheckpointStore) -> FileRef:
    """A file of four shards, the last one small."""
    raw = bytes(range(256)) * ((3 * SHARD_BYTES) // 256 + 5)
    return store.save(1, 0, {request.param: raw}).file(request.param)


def test_the_place_of_a_flipped_bit_is_named(large: FileRef) -> None:
    assert len(large.shards) == 4
    assert large.problem() is None
    flip(large.path, 2 * SHARD_BYTES - 9)
    flip(large.path, 2 * SHARD_BYTES - 99)
    first = SHARD_BYTES + (HEADER_BYTES if large.key else 0)
    assert large.problem() == (
        f"{large.path.name} has other bytes than were saved (of its 4 BLAKE3 digests 1 differ, first that of "
        f"the 4 MiB from byte {first} on)"
    )


def test_what_was_seen_is_not_hashed_again_until_it_changes(large: FileRef) -> None:
    wrong = replace(large, blake3="0" * 64, shards=("0" * 64,) * len(large.shards))
    with pytest.raises(CheckpointCorrupt):
        wrong.verify()
    seen = replace(wrong, seen=large.examine().state)
    assert seen.verify() == large.path
    assert seen.read_bytes() == large.read_bytes()
    os.utime(large.path)
    for read in (seen.verify, seen.read_bytes):
        with pytest.raises(CheckpointCorrupt, match="other bytes"):
            read()


def test_what_was_seen_is_not_believed_when_it_was_altered_cut_or_replaced(large: FileRef) -> None:
    seen = replace(large, seen=large.examine().state)
    raw = large.path.read_bytes()
    flip(large.path, large.size - 1)
    with pytest.raises(CheckpointCorrupt):
        seen.read_bytes()
    os.truncate(large.path, large.size - 1)
    with pytest.raises(CheckpointCorrupt):
        seen.verify()
    large.path.unlink()
    with pytest.raises(CheckpointCorrupt, match="cannot be read"):
        seen.verify()
    large.path.write_bytes(raw)
    assert seen.verify() == large.path


def _is_hashed(file: FileRef) -> bool:
    try:
        file.verify()
    except CheckpointCorrupt:
        return True
    return False


def test_another_process_sees_for_itself(large: FileRef) -> None:
    wrong = replace(large, blake3="0" * 64, shards=(), seen=large.examine().state)
    assert not _is_hashed(wrong)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        assert pool.submit(_is_hashed, wrong).result()


def test_files_are_examined_together(tmp_path: Path) -> None:
    good, bad = reference(tmp_path / "good", b"good"), reference(tmp_path / "bad", b"bad")
    flip(bad.path, 0)
    problems, seen = examined([good, bad])
    assert [problem.partition(" ")[0] for problem in problems] == ["bad"]
    assert list(seen) == [good.path]


def test_a_large_file_of_an_older_version_has_one_digest(tmp_path: Path) -> None:
    file = reference(tmp_path / "old", bytes(range(256)) * (SHARD_BYTES // 256 + 3))
    assert file.shards == ()
    assert file.problem() is None
    assert file.read_bytes() == file.path.read_bytes()
    flip(file.path, file.size - 1)
    assert file.problem() == "old has other bytes than were saved (its BLAKE3 digest differs)"


def test_retention_does_not_read_what_another_store_has_seen(run_dir: Path) -> None:
    with open_store(run_dir) as store:
        store.save(1, 0, {"large.bin": bytes(2 * SHARD_BYTES)})
        found = store.latest()
    assert found is not None
    for is_seen in (True, False):
        with open_store(run_dir) as store:
            again = found if is_seen else store.catalog.at(1)
            store.set_aside_after(again)
            before = bytes_read()
            store.save(2, 0, content(2))
            assert (bytes_read() - before > SHARD_BYTES) != is_seen


def bytes_read() -> int:
    """By read calls of this process."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])
