"""A disk that takes no more during training: told once; training goes on and nothing is lost."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from esper.checkpoint import FaultyStorage
from esper.emrakul import MaskState
from esper.errors import CheckpointError, EsperError
from tests.session.growers import KEPT, GrowingTraining
from tests.session.runs import Training


@contextmanager
def no_room() -> Iterator[None]:
    """The kernel lets this process write no file of more than 100 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def steps(training: Training) -> list[int]:
    training.session.parts.saving.settle()
    return [checkpoint.step for checkpoint in training.session.parts.saving.store.list().checkpoints]


def failures_told(training: Training) -> int:
    """Trains an epoch; 1 if its end told of a failed save (its own, or the one before it), else 0."""
    try:
        training.epoch(lambda _: 0.5)
    except CheckpointError:
        return 1
    return 0


def debris(run_dir: Path) -> list[Path]:
    return [path for path in run_dir.rglob(".*") if path.name.startswith((".tmp-", ".del-"))]


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    training = Training(tmp_path / "run")
    yield training
    training.session.detach()


def test_a_failed_background_save_is_told_by_the_next_epoch_end_and_the_next_save_works(
    training: Training,
) -> None:
    training.epoch()
    first = training.session.step
    assert steps(training) == [0, first]
    with no_room():
        told = failures_told(training)
        assert steps(training) == [0, first]
    told += failures_told(training)
    assert told == 1
    assert training.session.epoch == 3
    assert steps(training) == [0, first, training.session.step]
    training.epoch()
    assert training.session.epoch == 4
    training.session.parts.saving.settle()
    assert debris(training.session.run_dir) == []


def test_pruning_goes_on_after_a_failed_save(training: Training) -> None:
    training.epoch(lambda _: 0.5)
    training.session.parts.saving.settle()
    with no_room():
        told = failures_told(training)
        training.session.parts.saving.settle()
    assert told + failures_told(training) == 1
    training.until(lambda: "cut" in training.marks())


def test_without_background_saving_the_failure_is_told_at_once_and_the_epoch_has_ended(
    tmp_path: Path,
) -> None:
    training = Training(tmp_path, checkpoint={"background": False})
    loss = training.train_epoch()
    with no_room(), pytest.raises(CheckpointError, match="was not saved"):
        training.session.end_epoch(accuracy=0.5, loss=loss)
    assert training.session.epoch == 1
    training.epoch()
    assert steps(training) == [0, training.session.step]
    training.session.detach()


def test_a_cut_while_the_disk_is_full_is_saved_with_its_own_twin_later(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.until_masked()
    training.session.parts.saving.settle()
    with no_room():
        told = failures_told(training)
        training.session.parts.saving.settle()
    assert "cut" in training.marks()
    assert told + failures_told(training) == 1
    expected = training.fingerprint()
    training.session.detach()
    again = Training(tmp_path)
    assert again.fingerprint() == expected
    again.session.detach()


def test_finish_can_be_called_again_when_there_is_room(training: Training) -> None:
    training.until_masked()
    with no_room(), pytest.raises(CheckpointError, match="not s"):
        training.session.finish(latency=False)
    result = training.session.finish(latency=False)
    assert result.report_path.exists()
    assert result.report.flops_after < result.report.flops_before


def test_a_mask_that_cannot_be_written_down_waits_and_the_epoch_has_ended(tmp_path: Path) -> None:
    training = Training(tmp_path, checkpoint={"background": False})
    training.epoch(lambda _: 0.5)
    training.epoch(lambda _: 0.5)
    session = training.session
    session.pruning.cycles._resumed = training.decision()
    loss = training.train_epoch()
    with no_room(), pytest.raises(CheckpointError, match="Step 18 was not saved"):
        session.end_epoch(accuracy=0.5, loss=loss)
    assert session.parts.network.masks.num_masked == 0
    assert [
        note for note in session.log.notes if "A mask waits for the end of another epoch: The audit" in note
    ]
    training.epoch(lambda _: 0.5)
    assert training.marks() == ["mask"]
    session.detach()


def test_a_mask_whose_rollback_cannot_be_written_down_is_taken_back_an_epoch_later(tmp_path: Path) -> None:
    training = Training(tmp_path, checkpoint={"background": False})
    training.until_masked()
    trial = training.session.parts.trial
    training.epoch(lambda _: 0.0)
    with no_room(), pytest.raises(CheckpointError, match="was not saved"):
        training.epoch(lambda _: 0.0)
    assert trial.mask is MaskState.ON_TRIAL
    assert trial.setbacks.rollbacks == 0
    assert [note for note in training.session.log.notes if "Taking back a mask waits" in note]
    training.epoch(lambda _: 0.0)
    assert training.marks() == ["mask", "rollback"]
    assert training.session.parts.network.masks.num_masked == 0
    training.session.detach()


def test_a_seed_that_cannot_be_written_down_as_a_part_of_the_network_waits(tmp_path: Path) -> None:
    training = GrowingTraining(tmp_path, checkpoint={"background": False})
    for _ in range(8):
        if training.stages().get(KEPT) != "SHADOWING":
            training.epoch()
    with no_room(), pytest.raises(CheckpointError, match="was not saved"):
        training.epoch()
    assert training.stages()[KEPT] == "PROBATIONARY"
    assert [row for row in training.session.log.seeds if "audit" in row.evidence and row.slot == KEPT]
    training.epoch()
    assert training.stages()[KEPT] in ("FOSSILIZED", "TERMINATED")
    training.session.detach()


def test_what_cannot_be_deleted_in_a_rollback_is_told_and_deleted_before_the_next_save(
    training: Training,
) -> None:
    training.epoch()
    first, expected = training.session.step, training.fingerprint()
    training.epoch()
    checkpoints, clearance = steps(training), training.session.parts.saving.store._clearance
    clearance._storage = FaultyStorage(1, lasting=True)
    training.session.rollback(first)
    assert training.fingerprint() == expected
    assert steps(training) == checkpoints
    clearance._storage = FaultyStorage(1 << 30)
    assert failures_told(training) == 1
    assert training.session.step == checkpoints[-1]
    assert steps(training) == checkpoints
    training.epoch()
    training.session.rollback()
    assert training.session.parts.saving.store.verify(
        training.session.parts.saving.store.list().checkpoints[-1]
    ).is_ok


def test_a_report_that_cannot_be_written_can_be_had_later(training: Training) -> None:
    training.epoch()
    in_the_way = training.session.run_dir / "report.html"
    in_the_way.mkdir()
    with pytest.raises(CheckpointError, match=r"report was not written.*report.html.*call finish again"):
        training.session.finish(latency=False)
    in_the_way.rmdir()
    assert training.session.finish(latency=False).report_path == in_the_way


def test_what_cannot_be_written_at_the_end_keeps_hold_of_nothing(tmp_path: Path) -> None:
    def threads() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("esper-")}

    before, training = threads(), Training(tmp_path / "run")
    training.train_epoch()
    with no_room():
        training.session.parts.saving.save(training.session.step, 0)
        with pytest.raises(CheckpointError):
            training.session.detach()
    assert threads() == before
    Training(tmp_path / "run").session.detach()


def test_a_full_run_directory_is_told_before_training_starts_and_can_be_used_later(tmp_path: Path) -> None:
    with no_room(), pytest.raises(EsperError) as refusal:
        Training(tmp_path / "run")
    assert str(tmp_path / "run") in str(refusal.value)
    assert "\n" not in str(refusal.value)
    training = Training(tmp_path / "run")
    training.epoch()
    training.session.detach()


def test_a_place_where_nothing_can_be_written_is_told_before_training_starts() -> None:
    with pytest.raises(CheckpointError, match=r"/proc/esper-run cannot be made.*place that can be written"):
        Training(Path("/proc/esper-run"))
