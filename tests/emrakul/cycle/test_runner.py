"""A cycle beside training: what it decides is on disk beside the checkpoint, or not decided at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from esper.anatomy import Anatomy
from esper.anatomy.units import masked_axes
from esper.checkpoint import CheckpointRef, CheckpointStore, FaultyStorage, load_tensors
from esper.elesh import Evidence, OfflineAnalyst
from esper.emrakul.cycle.commit import MASK, CycleEnd, PendingMask, commit_mask, read_mask
from esper.emrakul.cycle.coordinator import Coordinator, CoordinatorState
from esper.emrakul.cycle.outcome import CycleStatus
from esper.emrakul.cycle.runner import CycleRunner
from esper.emrakul.plan import Plan, Situation, make_plan
from esper.emrakul.schedule import Allowance, Schedule
from esper.emrakul.settings import Settings
from esper.errors import CheckpointCorrupt, CheckpointError
from esper.leyline import Level, decode, encode
from esper.urabrask import RetentionLimits
from esper.urabrask import Settings as ValidationSettings
from esper.workers import InlinePool
from tests.checkpoint.runs import flip
from tests.elesh.cases import RING, Saved, saved
from tests.elesh.test_analyst import analyst

PRUNING = Settings.model_validate(
    {
        "target": {"flops": 0.4},
        "schedule": {"start_epoch": 1, "end_epoch": 4},
        "plan": {"required_confidence": 0.0},
    }
)
LENIENT = ValidationSettings(limits=RetentionLimits(channel=1.0), min_retention=0.01)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Saved]:
    made = saved(tmp_path)
    yield made
    made.store.close()


def runner_of(store: CheckpointStore) -> CycleRunner:
    coordinator = Coordinator(PRUNING, count(0.0, 1e-6).__next__)
    return CycleRunner(coordinator, Schedule(PRUNING, 10), store, store.audit, "settings")


def eyes(made: Saved) -> Callable[[CheckpointRef], OfflineAnalyst]:
    return lambda _: replace(analyst(made, InlinePool()), validation=LENIENT)


def decided(made: Saved, store: CheckpointStore | None = None) -> tuple[CycleRunner, CycleEnd]:
    """One cycle of epoch 2, to its end."""
    runner = runner_of(store or made.store)
    runner.start(lambda: made.checkpoint, 2, Situation.whole(made.anatomy), eyes(made))
    end = runner.collect(60.0)
    assert end is not None
    return runner, end


def nothing(made: Saved) -> Plan:
    """A plan that removes no unit."""
    unknown = Evidence.unmeasured(made.anatomy.digest, made.anatomy.num_units)
    allowed = Allowance("flops", 0.1, 0.2, (Level.CHANNEL,), "ramp", "a test")
    return make_plan(Situation.whole(made.anatomy), unknown, allowed, PRUNING)


def test_an_accepted_mask_is_committed_beside_its_checkpoint(made: Saved) -> None:
    runner, end = decided(made)
    assert end.mask is not None, end.reason
    assert end.outcome is not None
    assert end.outcome.status is CycleStatus.ACCEPTED
    assert 0 < int((~end.mask.keep).sum()) < made.anatomy.num_units
    again = read_mask(made.store, made.checkpoint, made.anatomy)
    assert again is not None
    assert again.mask is not None
    assert np.array_equal(again.mask.keep, end.mask.keep)
    told = [(mask.epoch, mask.reason, mask.is_on_probation) for mask in (again.mask, end.mask)]
    assert told[0] == told[1]
    assert again.mask.plan.id == end.mask.plan.id
    assert again.mask.step == made.checkpoint.step
    assert again.state == end.state == runner.coordinator.state
    assert not runner.is_running
    runner.close()


def test_the_values_under_the_mask_are_committed_with_it(made: Saved) -> None:
    _, end = decided(made)
    assert end.mask is not None
    (attached,) = made.store.attachments(made.checkpoint).found
    hidden = load_tensors(attached.file("originals.safetensors"))
    parameters = dict(made.model.named_parameters())
    where: dict[str, torch.Tensor] = {}
    for (name, axis), gone in masked_axes(made.anatomy, end.mask.keep).items():
        mask = where.setdefault(name, torch.zeros(parameters[name].shape, dtype=torch.bool))
        mask.index_fill_(axis, torch.from_numpy(gone), True)
    assert hidden.keys() == where.keys()
    for name, values in hidden.items():
        assert torch.equal(values, parameters[name].detach()[where[name]])


def test_a_mask_of_another_anatomy_is_ignored(made: Saved) -> None:
    decided(made)
    other = Anatomy(made.anatomy.tensors, made.anatomy.groups[:1], (), made.anatomy.terms)
    assert read_mask(made.store, made.checkpoint, other) is None


@pytest.mark.parametrize("name", ["decision.pb", "masks.bin", "originals.safetensors"])
def test_a_corrupt_mask_commit_is_not_used(made: Saved, name: str) -> None:
    decided(made)
    (attached,) = made.store.attachments(made.checkpoint).found
    flip(attached.file(name).path, attached.file(name).size - 3)
    assert read_mask(made.store, made.checkpoint, made.anatomy) is None
    assert len(made.store.attachments(made.checkpoint).rejected) == 1


def test_without_a_commit_there_is_no_mask(made: Saved) -> None:
    assert read_mask(made.store, made.checkpoint, made.anatomy) is None
    with pytest.raises(ValueError, match="no mask to commit"):
        commit_mask(made.store, made.checkpoint, made.anatomy, CycleEnd(1, "", CoordinatorState()))


def test_a_mask_about_tensors_that_were_not_saved_is_not_committed(made: Saved) -> None:
    keep = np.arange(made.anatomy.num_units) > 0
    text = json.dumps(encode(made.anatomy)).replace("0.weight", "9.weight")
    other = decode(Anatomy, json.loads(text))  # the same units in tensors of another name
    mask = PendingMask(1, keep, False, "", nothing(made), made.checkpoint.step)
    end = CycleEnd(1, "", CoordinatorState(), mask=mask)
    with pytest.raises(CheckpointCorrupt, match=r"no 9\.weight"):
        commit_mask(made.store, made.checkpoint, other, end)
    assert made.store.attachments(made.checkpoint).found == ()


def test_a_full_disk_at_the_commit_means_no_mask_and_says_why(made: Saved) -> None:
    made.store.close()
    probe = FaultyStorage(10**9)
    with CheckpointStore(made.store.run_dir, keyring=RING, model="net", storage=probe):
        calls = len(probe.calls)
    storage = FaultyStorage(calls + 3, "ENOSPC", lasting=True)
    with CheckpointStore(made.store.run_dir, keyring=RING, model="net", storage=storage) as store:
        _, end = decided(made, store)
        assert storage.fired
        assert end.mask is None
        assert end.outcome is None
        assert "ENOSPC" in end.reason
        assert read_mask(store, made.checkpoint, made.anatomy) is None
        assert store.verify(made.checkpoint).is_ok


def test_a_checkpoint_that_never_became_durable_means_no_mask(made: Saved) -> None:
    def never() -> CheckpointRef:
        raise CheckpointError("the save before failed")

    runner = runner_of(made.store)
    runner.start(never, 2, Situation.whole(made.anatomy), eyes(made))
    end = runner.collect(60.0)
    assert end is not None
    assert (end.mask, end.reason) == (None, "the save before failed")
    runner.close()


def test_whatever_goes_wrong_beside_training_is_how_the_cycle_ends(made: Saved) -> None:
    def broken(_: CheckpointRef) -> OfflineAnalyst:
        raise TimeoutError("a bug")

    runner = runner_of(made.store)
    runner.start(lambda: made.checkpoint, 2, Situation.whole(made.anatomy), broken)
    end = runner.collect(60.0)
    assert end is not None
    assert end.reason == "TimeoutError: a bug"
    assert end.mask is None
    assert not runner.is_running
    assert runner.collect(0.0) is None
    runner.close()


def test_a_corrupt_checkpoint_fails_the_cycle_and_nothing_is_committed(made: Saved) -> None:
    flip(made.case.model.path, made.case.model.size - 3)
    _, end = decided(made)
    assert end.mask is None
    assert end.outcome is not None
    assert end.outcome.status is CycleStatus.FAILED
    assert end.outcome.evidence is None
    assert "BLAKE3" in end.reason
    assert made.store.attachments(made.checkpoint).found == ()
    assert end.state.breaker.failures == 1


def test_a_cycle_that_is_not_done_is_collected_later(made: Saved) -> None:
    gate = threading.Event()

    def slow() -> CheckpointRef:
        gate.wait(60.0)
        return made.checkpoint

    runner = runner_of(made.store)
    assert runner.collect(0.0) is None
    runner.start(slow, 2, Situation.whole(made.anatomy), eyes(made))
    assert runner.collect(0.0) is None
    assert runner.is_running
    gate.set()
    end = runner.collect(60.0)
    assert end is not None
    assert end.mask is not None
    runner.close()


def test_a_cycle_finds_its_checkpoint_however_many_are_saved_meanwhile(made: Saved) -> None:
    reads, gate = threading.Event(), threading.Event()

    def slow(checkpoint: CheckpointRef) -> OfflineAnalyst:
        reads.set()
        assert gate.wait(60.0)
        return eyes(made)(checkpoint)

    runner = runner_of(made.store)
    runner.start(lambda: made.checkpoint, 2, Situation.whole(made.anatomy), slow)
    assert reads.wait(60.0)
    for step in range(1, 6):
        made.store.save(made.checkpoint.step + step, 3, {"a.bin": b"a"})
    gate.set()
    end = runner.collect(60.0)
    assert end is not None
    assert end.mask is not None, end.reason
    runner.close()


def test_a_dropped_cycle_commits_nothing_and_teaches_the_coordinator_nothing(made: Saved) -> None:
    gate, started = threading.Event(), threading.Event()

    def slow() -> CheckpointRef:
        started.set()
        gate.wait(60.0)
        return made.checkpoint

    runner = runner_of(made.store)
    runner.start(slow, 2, Situation.whole(made.anatomy), eyes(made))
    assert started.wait(60.0)
    runner.drop()
    assert not runner.is_running
    assert runner.collect(0.0) is None
    runner.coordinator.record_rollback(2)
    after_rollback = runner.coordinator.state
    gate.set()
    runner.close()  # waits for the thread
    assert runner.coordinator.state == after_rollback
    assert made.store.attachments(made.checkpoint).found == ()
    assert MASK not in made.store.pins().get(made.checkpoint.step, frozenset())


def test_the_next_cycle_after_a_dropped_one_counts(made: Saved) -> None:
    gate = threading.Event()

    def slow() -> CheckpointRef:
        gate.wait(60.0)
        return made.checkpoint

    runner = runner_of(made.store)
    runner.start(slow, 2, Situation.whole(made.anatomy), eyes(made))
    runner.drop()
    runner.start(lambda: made.checkpoint, 2, Situation.whole(made.anatomy), eyes(made))
    gate.set()
    end = runner.collect(60.0)
    assert end is not None
    assert end.mask is not None
    assert read_mask(made.store, made.checkpoint, made.anatomy) is not None
    runner.close()
    runner.close()
