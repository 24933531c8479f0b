"""Failures of the design's table, injected into real runs: no step of training lost, no wrong mask."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from esper.emrakul.cycle import MASK
from esper.errors import MaskError
from tests.faults.injected import PATIENT, flip, newest, plain, started, tally, with_workers
from tests.session.processes import start, train_and_die
from tests.session.runs import Training
from tests.workers.processes import workers

pytestmark = pytest.mark.usefixtures("worker")  # whose imports all these runs share

Judge = Callable[..., str]
EPOCHS = 3
"""The first cycle is about the end of the second epoch; it would mask at the end of the third."""


@pytest.fixture(scope="module")
def unpruned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """State of the run without any pruning when `EPOCHS` have ended."""
    return plain(tmp_path_factory.mktemp("plain"), EPOCHS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """State of the run that nothing disturbs, masks applied, when `EPOCHS` have ended."""
    training = Training(tmp_path_factory.mktemp("undisturbed"))
    epochs(training, EPOCHS)
    found = training.fingerprint()
    assert training.session.parts.network.masks.num_masked > 0
    training.session.detach()
    return found


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run directory; no process of its run is left when the test has ended."""
    before = workers()
    yield tmp_path / "run"
    assert workers() == before


def epochs(training: Training, count: int) -> None:
    for _ in range(count):
        training.epoch(lambda _: 0.5)


@pytest.fixture
def judge(record_property: Callable[[str, object], None]) -> Judge:
    """Holds a run against the one it must equal bit for bit, ends it, and returns what the log told."""

    def held_against(training: Training, expected: str, count: int = EPOCHS, *, masked: bool = False) -> str:
        found = tally(training, expected, count, masked=masked)
        training.session.detach()
        record_property("steps", found.steps)
        record_property("lost", found.lost)
        record_property("wrong", int(not found.is_exact))
        assert (found.lost, found.masks > 0, found.is_exact) == (0, masked, True), found
        return found.told

    return held_against


def test_workers_without_enough_memory_lead_to_no_decision(run: Path, unpruned: str, judge: Judge) -> None:
    training = with_workers(run, analysis={"memory_bytes": 1})
    epochs(training, EPOCHS)
    assert training.marks() == ["skipped"]
    judge(training, unpruned)


def test_a_worker_that_is_killed_costs_no_step_and_changes_no_decision(run: Path, judge: Judge) -> None:
    quiet = Training(run.parent / "quiet", pruning=PATIENT)
    epochs(quiet, EPOCHS - 1)
    expected = quiet.decision().mask
    quiet.session.detach()
    before = workers()
    training = with_workers(run)
    victim = started(before)
    epochs(training, EPOCHS - 1)
    os.kill(victim, signal.SIGKILL)
    decision = training.decision()
    assert expected is not None
    assert decision.mask is not None
    assert np.array_equal(decision.mask.keep, expected.keep)
    judge(training, plain(run.parent / "plain", EPOCHS - 1), EPOCHS - 1)


def test_a_worker_that_hangs_ends_at_the_deadline_without_a_decision(run: Path, judge: Judge) -> None:
    before = workers()
    training = with_workers(run, pruning={"budget": {"deadline_seconds": 2.0, "max_failures": 100}})
    os.kill(started(before), signal.SIGSTOP)
    epochs(training, EPOCHS - 1)
    decision = training.decision()
    assert decision.mask is None
    judge(training, plain(run.parent / "plain", EPOCHS - 1), EPOCHS - 1)


def test_statistics_that_are_corrupt_lead_to_no_decision(run: Path, judge: Judge) -> None:
    before = workers()
    training = with_workers(run, importance={"twin_samples": 0})  # what training has measured is asked for
    victim = started(before)
    os.kill(victim, signal.SIGSTOP)
    epochs(training, EPOCHS - 1)
    flip(newest(training).path / "optimizer.safetensors")
    os.kill(victim, signal.SIGCONT)
    decision = training.decision()
    assert decision.mask is None
    assert "digest" in decision.reason
    judge(training, plain(run.parent / "plain", EPOCHS - 1), EPOCHS - 1)


def test_a_corrupt_checkpoint_is_passed_over_and_its_epoch_is_trained_again_bit_for_bit(
    run: Path, undisturbed: str, judge: Judge
) -> None:
    training = Training(run)
    epochs(training, EPOCHS)
    damaged = newest(training)
    training.session.detach()
    flip(damaged.path / "model.safetensors")
    again = Training(run)
    assert again.session.epoch == EPOCHS - 1
    assert any("passed over" in note for note in again.session.log.notes)
    epochs(again, 1)
    judge(again, undisturbed, masked=True)


@pytest.mark.parametrize("file", ["masks.bin", "originals.safetensors", "decision.pb", "MANIFEST.json"])
def test_a_corrupt_mask_commit_is_never_applied(
    run: Path, unpruned: str, undisturbed: str, file: str, judge: Judge
) -> None:
    training = Training(run)
    epochs(training, EPOCHS - 1)
    base = newest(training)
    assert training.decision().mask is not None
    training.session.detach()
    flip(base.path / MASK / file)
    again = Training(run)
    epochs(again, 1)
    masked = again.session.parts.network.masks.num_masked > 0
    judge(again, undisturbed if masked else unpruned, masked=masked)  # analyzed again, or not at all


def test_a_mask_that_does_not_fit_is_refused_as_a_whole_and_the_model_is_untouched(run: Path) -> None:
    training = Training(run)
    epochs(training, 1)
    before = training.fingerprint()
    masks = training.session.parts.network.masks
    for keep in (np.zeros(3, np.bool_), np.ones(masks.keep.size + 1, np.bool_)):
        with pytest.raises(MaskError):
            masks.apply(keep)
        assert training.fingerprint() == before
    training.session.detach()


@pytest.mark.parametrize(
    ("validation", "mark", "word"),
    [
        ({"memory_limit_bytes": 1}, "no_go", "MiB"),
        ({"time_limit_seconds": 1e-9}, "skipped", "instead of 1e-09"),
    ],
)
def test_a_validator_that_says_no_or_is_too_late_drops_the_plan_and_its_reason_is_stored(
    run: Path, unpruned: str, validation: dict[str, float], mark: str, word: str, judge: Judge
) -> None:
    training = Training(run, validation=validation)
    epochs(training, EPOCHS)
    assert word in training.session.parts.runner.coordinator.state.history[0].reason
    assert training.marks() == [mark]
    assert word in judge(training, unpruned)


def test_a_tracker_that_fails_is_switched_off_once_and_training_goes_on(run: Path, judge: Judge) -> None:
    training = Training(run)
    tracker = training.session.parts.tracker
    names, values = zip(*training.model.named_parameters(), strict=True)
    other = dict(zip(names, values[2:] + values[:2], strict=True))  # as if somebody had changed the network
    tracker.rebind(training.session.parts.network.anatomy, other, np.arange(tracker.num_units))
    epochs(training, 2)
    assert tracker.failure is not None
    judge(training, plain(run.parent / "plain", 2), 2)


def test_a_process_that_is_killed_in_the_middle_of_an_epoch_finds_a_verified_state(
    run: Path, undisturbed: str, judge: Judge
) -> None:
    process, told = start(train_and_die, run, "adamw", EPOCHS - 1)
    durable = told.recv()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again = Training(run)
    assert again.session.step == durable
    assert not [path for path in run.rglob(".*") if path.name.startswith((".tmp-", ".del-"))]
    epochs(again, 1)
    judge(again, undisturbed, masked=True)
