"""Saves beside training."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from esper.checkpoint.background import BackgroundSaver, Stall
from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.file_ref import load_tensors
from esper.checkpoint.storage import PosixStorage
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointError
from esper.leyline import ManualClock
from tests.checkpoint.runs import content, debris, open_store


class GatedStorage(PosixStorage):
    """Holds every rename until the gate is opened."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def rename(self, source: Path, target: Path) -> None:
        if target.name.startswith("step-"):
            assert self.gate.wait(60)
        super().rename(source, target)


def test_training_may_change_the_tensors_while_they_are_written(run_dir: Path) -> None:
    storage = GatedStorage()
    weight = torch.zeros(1000)
    with open_store(run_dir, storage=storage) as store, BackgroundSaver(store) as saver:
        saver.submit(1, 0, {"m.safetensors": {"w": weight}})
        weight.add_(1)
        saver.check()
        pending = saver.pending
        assert pending is not None
        assert saver.last_saved is None
        assert store.latest() is None
        storage.gate.set()
        saved = saver.wait()
        assert saved == saver.last_saved == store.latest() == pending.result()
        assert saver.pending is None
        assert saved is not None
        assert load_tensors(saved.file("m.safetensors"))["w"].sum() == 0


def test_one_save_at_a_time_in_the_order_they_came(store: CheckpointStore) -> None:
    with BackgroundSaver(store) as saver:
        saver.reserve(content(1))
        for step in range(1, 6):
            saver.submit(step, 0, content(step), pin="x")
            assert saver.last_saved is None or saver.last_saved.step == step - 1
    assert [ref.step for ref in store.list().checkpoints] == [1, 2, 3, 4, 5]
    assert saver.last_saved is not None
    assert saver.last_saved.step == 5


@pytest.mark.parametrize("call", ["submit", "wait", "close"])
def test_a_failure_in_the_background_is_raised_at_the_next_call_and_once(run_dir: Path, call: str) -> None:
    storage = FaultyStorage(fail_at=0, error="ENOSPC")
    with open_store(run_dir, storage=storage) as store:
        saver = BackgroundSaver(store)
        saver.submit(1, 0, content(1))
        saver.wait()
        storage.fail_at = len(storage.calls) + 5
        saver.submit(2, 0, content(2))
        with pytest.raises(CheckpointError, match=r"Step 2 was not saved .* disk is full"):
            saver.submit(3, 0, content(3)) if call == "submit" else getattr(saver, call)()
        assert debris(run_dir) == []
        assert saver.last_saved == store.latest()
        if call != "close":
            saver.submit(3, 0, content(3))
        saver.close()
        saver.check()
        assert [ref.step for ref in store.list().checkpoints] == ([1] if call == "close" else [1, 3])


def check_until_it_raises(saver: BackgroundSaver) -> None:
    while True:  # the failure is known a moment after cleaning up
        saver.check()


def test_a_check_raises_what_has_failed_already(run_dir: Path) -> None:
    done = threading.Event()

    class Telling(FaultyStorage):
        def remove_directory(self, path: Path) -> None:
            super().remove_directory(path)
            done.set()

    storage = Telling(fail_at=0)
    with open_store(run_dir, storage=storage) as store:
        saver = BackgroundSaver(store)
        storage.fail_at = len(storage.calls) + 3
        saver.submit(1, 0, content(1))
        assert done.wait(60)
        with pytest.raises(CheckpointError, match="Step 1 was not saved"):
            check_until_it_raises(saver)
        saver.close()


def test_a_tensor_that_cannot_be_stored_fails_at_once(store: CheckpointStore) -> None:
    with BackgroundSaver(store) as saver, pytest.raises(CheckpointError, match="'w' cannot be stored"):
        saver.submit(1, 0, {"m": {"w": torch.zeros(2, 2).to_sparse()}})
    assert store.latest() is None


def test_the_stall_is_told_per_gigabyte(store: CheckpointStore) -> None:
    clock = ManualClock()

    def timer() -> float:
        clock.advance(0.5)
        return clock()

    with BackgroundSaver(store, timer=timer) as saver:
        stall = saver.submit(1, 0, {"m": {"w": torch.zeros(1000)}})
        assert saver.last_stall == stall
        assert (stall.waited_seconds, stall.copied_seconds) == (0.5, 0.5)
        assert stall.copied_bytes > 4000
        assert stall.copy_ms_per_gb == pytest.approx(500 / (stall.copied_bytes / 1e9))
    assert Stall(0.0, 1.0, 0).copy_ms_per_gb == 0.0
