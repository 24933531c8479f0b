"""Keys rotate, and every system call of it fails, is the last before a kill, or is cut by a power failure."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Literal

import pytest

from esper.checkpoint import FaultyStorage, KeyRing, due, open_key_ring, rekey
from tests.checkpoint.runs import debris
from tests.faults.disk import write_tree
from tests.faults.dying import NEVER, DeadlyStorage
from tests.faults.power import RecordingStorage
from tests.faults.rekeyed import Hasty, begin, copy_of, problem, rotate, rotated


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, KeyRing, KeyRing]:
    """A run, its ring, and the one that it gets."""
    run = tmp_path_factory.mktemp("sample") / "run"
    ring = begin(run, Hasty())
    return run, ring, rotated(ring)


Sample = tuple[Path, KeyRing, KeyRing]
Fault = Literal["EIO", "ENOSPC", "short write"]


def alone(new: KeyRing) -> KeyRing:
    """The ring in which only the new key is left."""
    (old,) = (key.id for key in new.keys if key.id != new.primary.id)
    return new.disable(old).destroy(old)


def goes_on(run: Path, sample: Sample) -> None:
    """Whatever has happened, the ring on the disk opens everything; done again, the new key does alone."""
    _, ring, new = sample
    found = open_key_ring(run, environment={})
    assert found in (ring, new)
    assert problem(run, found) is None
    assert debris(run / "checkpoints") == []
    rotate(run, new, Hasty())
    assert problem(run, alone(new)) is None


class Killed(BaseException):
    """The process is gone: not even cleaning up happens."""


class Mortal(FaultyStorage):
    """Dies instead of making call number `fail_at`, and makes none after it."""

    def _count(self, call: str, *, takes_space: bool = True) -> None:
        self.calls.append(call)
        if len(self.calls) >= self.fail_at:
            raise Killed


def calls_of(sample: Sample, place: Path) -> list[str]:
    """The calls of a rotation to which nothing happens."""
    run, _, new = sample
    storage = FaultyStorage(NEVER, inner=Hasty())
    rotate(copy_of(run, place), new, storage)
    shutil.rmtree(place)
    return storage.calls


def test_a_call_that_fails_is_told_and_costs_nothing_whichever_it_is(tmp_path: Path, sample: Sample) -> None:
    run, _, new = sample
    calls = calls_of(sample, tmp_path / "whole")
    assert {"open_to_overwrite", "write_at", "replace", "sync", "sync_directory"} <= set(calls)
    faults: dict[str, tuple[Fault, ...]] = {
        "write": ("ENOSPC", "short write"),
        "write_at": ("short write",),
    }
    for number, call in enumerate(calls, 1):
        for error in faults.get(call, ("EIO",)):
            copy = copy_of(run, tmp_path / "copy")
            storage = FaultyStorage(number, error, inner=Hasty())
            is_told = False
            try:
                rotate(copy, new, storage)
            except (OSError, AssertionError):
                is_told = True
            assert is_told == (error != "short write")
            assert problem(copy, open_key_ring(copy, environment={})) is None
            shutil.rmtree(copy)


def test_what_a_kill_in_place_of_any_call_leaves_opens_and_is_taken_up(
    tmp_path: Path, sample: Sample
) -> None:
    run, _, new = sample
    for number in range(1, len(calls_of(sample, tmp_path / "whole")) + 1):
        copy = copy_of(run, tmp_path / "copy")
        with pytest.raises(Killed):
            rotate(copy, new, Mortal(number, inner=Hasty()))
        goes_on(copy, sample)
        shutil.rmtree(copy)


def die_at_each(run: Path, new: KeyRing, places: list[tuple[int, Path]]) -> None:
    """Rotates in forks of a process that has imported everything, each of which dies at a call."""
    for number, place in places:
        copy = copy_of(run, place)
        if (process := os.fork()) == 0:
            try:
                rotate(copy, new, DeadlyStorage(number, inner=Hasty()))
            finally:
                os._exit(1)  # it lives
        _, status = os.waitpid(process, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def test_kills_that_are_none_of_python_leave_the_same(tmp_path: Path, sample: Sample) -> None:
    run, _, new = sample
    calls = calls_of(sample, tmp_path / "whole")
    places = [(number, tmp_path / str(number)) for number in range(3, len(calls), 6)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.test_rekeying"])
    process = context.Process(target=die_at_each, args=(run, new, places))
    process.start()
    process.join()
    assert process.exitcode == 0
    for _, place in places:
        goes_on(place, sample)


def test_no_power_cut_while_keys_rotate_loses_anything(tmp_path: Path) -> None:
    storage = RecordingStorage(tmp_path / "recorded")
    storage.root.mkdir()
    run = storage.root / "run"
    storage.make_directory(run)
    ring = begin(run, storage)
    new = rotated(ring)
    storage.states.clear()
    rotate(run, new, storage)
    storage.acknowledged = "rotated"
    rekey(run, new, due(run, new), storage)
    seen = {repr(tree): tree for _, tree in storage.states}
    for tree in seen.values():
        disk = tmp_path / "disk"
        write_tree(tree, disk)
        (disk / "run" / "keys" / "ring.json").chmod(0o600)
        found = open_key_ring(disk / "run", environment={})
        assert found in (ring, new)
        assert problem(disk / "run", found) is None
        shutil.rmtree(disk)
    write_tree(storage.durable_tree(), tmp_path / "disk")
    assert problem(tmp_path / "disk" / "run", alone(new)) is None
    assert len(seen) > 50


def test_a_power_cut_while_a_ring_is_made_leaves_a_whole_one_or_none(tmp_path: Path) -> None:
    storage = RecordingStorage(tmp_path / "recorded")
    storage.root.mkdir()
    run = storage.root / "run"
    storage.make_directory(run)
    ring = open_key_ring(run, create=True, environment={}, storage=storage)
    seen = {repr(tree): tree for _, tree in storage.states}
    for tree in seen.values():
        disk = tmp_path / "disk"
        write_tree(tree, disk)
        path = disk / "run" / "keys" / "ring.json"
        if path.exists():
            path.chmod(0o600)
            assert open_key_ring(disk / "run", environment={}) == ring
        shutil.rmtree(disk)
    write_tree(storage.durable_tree(), tmp_path / "disk")
    (tmp_path / "disk" / "run" / "keys" / "ring.json").chmod(0o600)
    assert open_key_ring(tmp_path / "disk" / "run", environment={}) == ring
    assert len(seen) > 10
