"""Going back: a mask or a checkpoint restored exactly, also across a cut, and when none is left."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from esper.checkpoint import CheckpointCatalog, open_key_ring
from esper.cli import main
from esper.emrakul import Strategy
from esper.errors import CheckpointMissing, ConfigError, RollbackExhausted
from esper.nissa import ListSink, acts
from esper.session.emergency import EMERGENCY
from tests.session.runs import EPOCHS, Training


@contextmanager
def run(path: Path, kind: str = "adamw", **changes: object) -> Iterator[Training]:
    training = Training(path, kind, **changes)
    try:
        yield training
    finally:
        training.session.detach()


def values(training: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.model.state_dict().items()}


def changes_of(training: Training) -> dict[str, Tensor]:
    """What weights took over from the mask on trial."""
    watch = training.session.parts.trial.watch
    assert watch is not None
    return dict(watch.changes)


def end_without_a_loss(training: Training) -> None:
    """Ends an epoch that reports a loss which is no number."""
    training.train_epoch()
    training.session.end_epoch(accuracy=0.5, loss=float("nan"))


def pace(training: Training) -> float:
    return training.session.parts.runner.coordinator.state.schedule.pace


def test_a_metric_that_falls_takes_the_mask_back_exactly_and_makes_later_steps_smaller(
    tmp_path: Path,
) -> None:
    with run(tmp_path) as training:
        training.until_masked()
        masks = training.session.parts.network.masks
        hidden, keep, before = masks.originals(), masks.keep.copy(), pace(training)
        training.fall()
        assert training.marks()[-1] == "rollback"
        assert masks.num_masked == 0
        state = training.model.state_dict()
        masks.apply(keep)  # the values under the same mask are those that were hidden, bit for bit
        assert all(torch.equal(masks.originals()[name], value) for name, value in hidden.items())
        assert pace(training) < before
        assert not training.session.parts.network.changes
        assert set(state) == set(training.model.state_dict())


def test_what_readers_took_over_goes_back_with_the_mask_also_after_a_resume(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        training.until_masked()
        changes = changes_of(training)
        assert changes
        assert any(change.any() for change in changes.values())
    with run(tmp_path) as training:
        again = changes_of(training)
        assert {name: value.tolist() for name, value in again.items()} == {
            name: value.tolist() for name, value in changes.items()
        }
        training.epoch(lambda _: 0.3)
        training.train_epoch()
        masked = values(training)
        keep = training.session.parts.network.masks.keep
        kept = {name: masked[name] != 0 for name in changes}
        training.session.end_epoch(accuracy=0.3)
        assert training.marks()[-1] == "rollback"
        assert not keep.all()
        for name, change in changes.items():
            expected = masked[name] - change
            found = training.model.state_dict()[name]
            torch.testing.assert_close(found[kept[name]], expected[kept[name]])


def test_what_proved_itself_but_was_not_worth_a_cut_stays_when_the_next_mask_is_taken_back(
    tmp_path: Path,
) -> None:
    never = {"cut": {"min_saved_fraction": 1.0}}
    with run(tmp_path, pruning=never) as training:
        training.until_masked()
        masks = training.session.parts.network.masks
        first = masks.keep.copy()
        training.until(lambda: bool((first & ~masks.keep).any()))
        hidden = masks.originals()
        training.fall()
        assert training.marks()[-1] == "rollback"
        assert "cut" not in training.marks()
        assert (masks.keep == first).all()
        assert set(masks.originals()) <= set(hidden)


def test_a_metric_within_the_limit_keeps_the_mask(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        training.until_masked()
        training.epoch(lambda _: 0.49)
        assert "rollback" not in training.marks()
        assert "cut" in training.marks()


def test_a_loss_that_stays_far_off_leads_back_before_the_mask_is_cut(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        training.until_masked()
        watch = training.session.parts.trial.watch
        assert watch is not None
        for _ in range(3):
            assert training.session.parts.network.masks.num_masked > 0
            training.train_epoch()
            training.session.end_epoch(accuracy=0.5, loss=1e4)
        assert "The loss stayed above" in training.session.log.marks[-1].text
        assert training.session.step == watch.base_step
        assert "cut" not in training.marks()


def test_what_was_seen_of_units_while_they_were_masked_is_forgotten_with_the_mask(tmp_path: Path) -> None:
    with run(tmp_path, "sgd") as training:
        training.until_masked()
        parts = training.session.parts
        gone = ~parts.network.masks.keep
        training.fall()
        assert training.marks()[-1] == "rollback"
        known = np.isfinite(parts.tracker.fisher())
        assert known[~gone].all()
        assert not known[gone].any()
        training.epoch(lambda _: 0.5)
        assert np.isfinite(parts.tracker.fisher()).all()


def test_walking_back_stops_at_the_first_checkpoint_that_passes(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        for _ in range(4):
            training.epoch(lambda _: 0.5)
        saving = training.session.parts.saving
        saving.settle()
        steps = [checkpoint.step for checkpoint in saving.store.list().checkpoints]
        newest = steps[-1]
        assert len(steps) > 3
        assert saving.before(newest, Strategy.IMMEDIATE).step == newest
        assert saving.before(newest, Strategy.PROGRESSIVE).step == steps[-2]
        assert saving.before(newest, Strategy.PROGRESSIVE, lambda c: c.step < steps[-2]).step == steps[-3]
        assert saving.before(newest, Strategy.PROGRESSIVE, lambda _: False).step == steps[0]
        assert saving.before(newest, Strategy.BASELINE, lambda _: False).step == steps[0] == 0


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_metric_that_is_no_number_restores_the_checkpoint_before_the_mask_bit_for_bit(
    tmp_path: Path, kind: str
) -> None:
    with run(tmp_path / "run", kind) as training:
        states: list[str] = []
        for _ in range(3):
            training.epoch(lambda _: 0.5)
            states.append(training.fingerprint())
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.fill_(float("nan"))
        watch = training.session.parts.trial.watch
        assert watch is not None
        base = watch.base_step
        training.epoch(lambda _: float("nan"))
        assert training.session.step == base
        assert training.fingerprint() == states[-2]  # as it was when the epoch before the mask had ended
        expected = training.train_epoch(), training.fingerprint()
        training.session.rollback(base)
        assert (training.train_epoch(), training.fingerprint()) == expected


def test_training_goes_on_after_a_restored_checkpoint_and_prunes_again(tmp_path: Path) -> None:
    schedule = {"start_epoch": 2, "end_epoch": 5, "max_rest_epochs": 0}  # six epochs leave no time to rest
    with run(tmp_path, pruning={"schedule": schedule}) as training:
        training.until_masked()
        end_without_a_loss(training)
        assert training.marks()[-1] == "rollback"
        training.until(lambda: training.marks()[-1] in ("mask", "cut"))
        assert "skipped" not in training.marks()


def test_going_back_across_a_cut_lets_shapes_grow_back_in_the_same_parameters(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        before = list(training.model.parameters())
        shapes = [tuple(p.shape) for p in before]
        states = {}
        for _ in range(4):
            training.epoch(lambda _: 0.5)
            states[training.session.step] = (training.fingerprint(), values(training))
        assert [tuple(p.shape) for p in before] != shapes
        first = sorted(states)[1]
        assert training.session.rollback(first) == first
        assert [tuple(p.shape) for p in before] == shapes
        assert all(a is b for a, b in zip(before, training.model.parameters(), strict=True))
        trained = [p for group in training.optimizer.param_groups for p in group["params"]]
        assert all(a is b for a, b in zip(before, trained, strict=True))
        assert training.fingerprint() == states[first][0]
        training.epoch(lambda _: 0.5)
        assert training.session.epoch == 3


def test_a_cut_that_follows_a_rollback_is_made_again_by_resume(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        training.until_masked()
        training.session.rollback(training.session.parts.saving.store.list().checkpoints[-2].step)
        training.until(lambda: "cut" in training.marks())
        expected = training.fingerprint()
    with run(tmp_path) as training:
        assert training.fingerprint() == expected


def test_a_mask_that_was_taken_back_does_not_return_by_resume(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        training.until_masked()
        end_without_a_loss(training)
        step, expected = training.session.step, training.fingerprint()
    with run(tmp_path) as training:
        assert training.session.step == step
        assert training.fingerprint() == expected
        training.epoch(lambda _: 0.5)
        assert training.session.parts.network.masks.num_masked == 0


def test_the_command_line_goes_back_and_resume_continues_from_there(tmp_path: Path) -> None:
    states = {}
    with run(tmp_path) as training:
        for _ in range(3):
            training.epoch(lambda _: 0.5)
            states[training.session.step] = training.fingerprint()
    target = min(states)
    with pytest.raises(SystemExit) as ended:
        main(["rollback", str(tmp_path), "--to", str(target), "--yes"])
    assert ended.value.code == 0
    with run(tmp_path) as training:
        assert training.session.step == target
        assert training.fingerprint() == states[target]


def test_rollback_without_a_step_goes_to_the_newest_and_names_a_step_that_is_not_there(
    tmp_path: Path,
) -> None:
    with run(tmp_path) as training:
        training.epoch(lambda _: 0.5)
        step, expected = training.session.step, training.fingerprint()
        training.train_epoch()
        heard = ListSink()
        training.session.log.telling.sinks.append(heard)
        assert training.session.rollback() == step
        went_back = [event for event in heard.events if isinstance(event, acts.WentBack)]
        assert went_back == [acts.WentBack(1, step)]
        assert training.session.log.marks[-1].text == heard.events[0].text
        assert training.fingerprint() == expected
        with pytest.raises(CheckpointMissing, match="999"):
            training.session.rollback(999)
        assert training.fingerprint() == expected


def test_when_no_checkpoint_is_left_it_says_so_and_leaves_training_as_it_is(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        training.until_masked()
        for checkpoint in training.session.parts.saving.store.list().checkpoints:
            damaged = checkpoint.path / "model.safetensors"
            damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
        training.train_epoch()
        weights, step = values(training), training.session.step
        with pytest.raises(RollbackExhausted, match=r"no checkpoint up to step \d+ that verifies"):
            training.session.end_epoch(accuracy=0.5, loss=float("nan"))
        assert all(torch.equal(value, weights[name]) for name, value in values(training).items())
        training.epoch(lambda _: 0.5)
        training.session.parts.saving.settle()
        assert training.session.parts.saving.store.latest() is not None
        assert any("Emergency: " in note for note in training.session.log.notes)
    beside = tmp_path / EMERGENCY  # the state of then is kept, as where a seed reaches the network
    kept = CheckpointCatalog(beside, open_key_ring(beside)).latest()
    assert kept is not None
    assert kept.step == step


def test_per_cent_are_noticed_and_lead_to_no_storm_of_rollbacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values_in_per_cent = iter([93.1, 93.4, 92.9, 93.3, 93.0, 92.2])
    with caplog.at_level(logging.INFO, "esper"), run(tmp_path) as training:
        for _ in range(EPOCHS):
            training.epoch(lambda _: next(values_in_per_cent))
        assert "mask" in training.marks()
        assert "rollback" not in training.marks()
        told = [note for note in training.session.log.notes if "a perfect metric reads" in note]
    assert len(told) == 1
    assert "metric_scale" in told[0]
    assert sum("a perfect metric reads" in record.message for record in caplog.records) == 1


def test_a_scale_that_was_set_is_not_second_guessed(tmp_path: Path) -> None:
    strict = {
        "target": {"flops": 0.4},
        "schedule": {"start_epoch": 2, "end_epoch": 5},
        "rollback": {"metric_scale": 1.0, "noise_factor": 0.0},
    }
    with run(tmp_path, pruning=strict) as training:
        training.until(lambda: training.session.parts.network.masks.num_masked > 0, 3.5)
        training.fall(3.4)
        assert training.marks()[-1] == "rollback"
        assert not any("a perfect metric reads" in note for note in training.session.log.notes)


def test_weights_that_somebody_wrote_under_a_mask_lead_back_to_the_checkpoint_before_it(
    tmp_path: Path,
) -> None:
    with run(tmp_path) as training:
        states: list[str] = []
        for _ in range(3):
            training.epoch(lambda _: 0.5)
            states.append(training.fingerprint())
        assert training.session.parts.network.masks.num_masked > 0
        training.train_epoch()
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.fill_(1.0)  # as if other weights had been loaded
        training.session.end_epoch(accuracy=0.5)
        assert "are not zero" in training.session.log.marks[-1].text
        assert training.fingerprint() == states[1]


def test_a_veto_takes_the_mask_on_trial_back_and_without_one_there_is_nothing_to_veto(tmp_path: Path) -> None:
    with run(tmp_path) as training:
        with pytest.raises(ConfigError, match="no mask on trial"):
            training.session.veto("too early")
        training.until_masked()
        before = pace(training)
        training.session.veto("the robot fell over")
        assert training.session.parts.network.masks.num_masked == 0
        assert "robot" in training.session.log.marks[-1].text
        assert pace(training) < before


def test_a_mask_on_trial_in_the_checkpoint_gone_back_to_is_on_trial_again_and_can_still_fail(
    tmp_path: Path,
) -> None:
    with run(tmp_path) as training:
        training.until_masked()
        step, trial = training.session.step, training.session.parts.trial
        expected, base = training.fingerprint(), trial.base_step
        training.until(lambda: trial.watch is None)  # it has proved itself
        assert training.session.rollback(step) == step
        assert (trial.base_step, training.fingerprint()) == (base, expected)
        training.fall()  # and now it does not
        assert training.marks()[-1] == "rollback"
        assert training.session.parts.network.masks.num_masked == 0


def test_each_rollback_in_a_row_goes_back_further_until_the_baseline(tmp_path: Path) -> None:
    schedule = {"start_epoch": 2, "end_epoch": 5, "max_rest_epochs": 0}
    pruning = {"target": {"flops": 0.4}, "schedule": schedule, "budget": {"max_failures": 100}}
    with run(tmp_path, pruning=pruning) as training:
        told = []
        for _ in range(4):
            training.until_masked()
            training.session.veto("again")
            told.append(training.session.log.marks[-1].text.partition("Therefore ")[2])
        assert "taken back exactly" in told[0]
        assert "verified checkpoint" in told[1]
        assert "verified checkpoint" in told[2]
        assert told[3].endswith("step 0.")
        assert training.session.step == 0
        training.until_masked()
