"""A full disk: the save is refused in a paragraph, older checkpoints stay, the space is given back."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from esper.checkpoint import BackgroundSaver, CheckpointStore, FaultyStorage, Storage
from esper.errors import CheckpointError
from tests.checkpoint.runs import content, debris, holds, open_store

SMALL = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A tmpfs of 4 MiB, or None where this user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", str(disk)]
    mounted = (
        shutil.which("mount") and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
    if not mounted:
        yield None
        return
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def full_at(number: int) -> FaultyStorage:
    return FaultyStorage(fail_at=number, error="ENOSPC", lasting=True)


def open_on(disk: Path | None, fallback: Path) -> tuple[CheckpointStore, FaultyStorage | None]:
    """A store on the small disk, or on one that pretends to be full after two writes of the second save."""
    if disk is not None:
        return open_store(disk / "run"), None
    storage = full_at(0)
    return open_store(fallback / "run", storage=storage), storage


def test_a_save_that_does_not_fit_costs_nothing(small_disk: Path | None, tmp_path: Path) -> None:
    store, storage = open_on(small_disk, tmp_path)
    with store:
        old = store.save(1, 0, content(1))
        before = shutil.disk_usage(store.run_dir).free
        if storage is not None:
            storage.fail_at = len(storage.calls) + 4
        big = {"model.safetensors": {"a": torch.zeros(SMALL // 8), "b": torch.zeros(SMALL // 4)}}
        with pytest.raises(
            CheckpointError, match=r"Step 2 was not saved in .*: the disk is full\. Free some"
        ):
            store.save(2, 0, big)
        assert debris(store.run_dir) == []
        assert small_disk is None or shutil.disk_usage(store.run_dir).free == before
        assert store.latest() == old
        if storage is not None:
            storage.fail_at, storage.fired = 0, False
        assert holds(store.save(2, 0, content(2)), 2)


def test_in_the_background_it_is_raised_at_the_next_call(small_disk: Path | None, tmp_path: Path) -> None:
    store, storage = open_on(small_disk, tmp_path)
    with store:
        old = store.save(1, 0, content(1))
        if storage is not None:
            storage.fail_at = len(storage.calls) + 4
        saver = BackgroundSaver(store)
        saver.submit(
            2, 0, {"model.safetensors": {"a": torch.zeros(SMALL // 4), "b": torch.zeros(SMALL // 4)}}
        )
        with pytest.raises(CheckpointError, match="disk is full"):
            saver.close()
        assert store.latest() == old


@pytest.mark.parametrize("free_bytes", [0, 3000, 9000, 40_000, 300_000])
def test_a_disk_that_fills_up_at_any_point(small_disk: Path | None, free_bytes: int) -> None:
    if small_disk is None:
        pytest.skip("this user may not mount a tmpfs; the faulty storage fills up at every call instead")
    with open_store(small_disk / "run") as store:
        old = store.save(1, 0, content(1))
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - free_bytes)))
        before = shutil.disk_usage(small_disk).free
        with pytest.raises(CheckpointError, match="disk is full"):
            store.save(2, 0, {"a.bin": bytes(100_000), "b.bin": bytes(300_000)})
        assert shutil.disk_usage(small_disk).free == before
        assert store.latest() == old
        ballast.unlink()
        assert holds(store.save(2, 0, content(2)), 2)


def test_a_disk_that_fills_up_at_every_call_and_stays_full(tmp_path: Path) -> None:
    for number in range(1, 40):
        storage: Storage = full_at(0)
        assert isinstance(storage, FaultyStorage)
        with open_store(tmp_path / str(number), storage=storage) as store:
            old = store.save(1, 0, content(1))
            storage.fail_at = len(storage.calls) + number
            try:
                store.save(2, 0, content(2), pin="x")
            except CheckpointError:
                newest = store.latest()
                assert newest is not None
                assert newest == old or holds(newest, 2)
            else:
                if not storage.fired:
                    assert number > 12
                    return
        with open_store(tmp_path / str(number)) as store:
            assert debris(store.run_dir) == []
            newest = store.latest()
            assert newest is not None
            assert newest == old or holds(newest, 2)
    raise AssertionError("a save made more system calls than expected")


def test_a_read_only_directory_is_told_and_still_read(small_disk: Path | None) -> None:
    if small_disk is None:
        pytest.skip("this user may not mount a tmpfs")
    with open_store(small_disk / "run") as store:
        saved = store.save(1, 0, content(1))
        remount = ["mount", "-o", "remount,ro", str(small_disk)]
        store.close()
        subprocess.run(remount, check=True)
        with pytest.raises(CheckpointError, match="read-only"):
            open_store(small_disk / "run")
        assert store.latest() == saved
