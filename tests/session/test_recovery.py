"""A run whose own dense network teaches what masks leave of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from esper.checkpoint import load_trainer
from esper.errors import ConfigError
from esper.kasmina import distillation_loss
from esper.report import Mark
from esper.session.saving import TEACHER
from tests.session.runs import Training, small_network

TEACHING = {"recovery": {"distill": True, "distill_weight": 0.25, "distill_temperature": 3.0}}


def taught(run_dir: Path) -> Training:
    return Training(run_dir, pruning=TEACHING)


def test_the_loss_is_the_given_one_unless_distillation_is_on(tmp_path: Path) -> None:
    run = Training(tmp_path / "run")
    run.until_masked()
    inputs, targets = run.train_data
    output = run.model(inputs)
    assert run.session.loss(output, targets) == run.loss(output, targets)


def test_after_a_mask_the_network_from_before_it_teaches(tmp_path: Path) -> None:
    run = taught(tmp_path / "run")
    inputs, targets = run.train_data
    run.epoch()
    output = run.model(inputs)
    assert run.session.loss(output, targets, inputs) == run.loss(output, targets)
    run.until_masked()
    held = run.session.parts.saving.held(TEACHER)
    assert held is not None
    dense = small_network().eval()
    dense.load_state_dict(load_trainer(held).model)
    with torch.no_grad():
        answer = dense(inputs)
    output = run.model(inputs)
    expected = 0.75 * run.loss(output, targets) + 0.25 * distillation_loss(output, answer, targets, 3.0)
    torch.testing.assert_close(run.session.loss(output, targets, inputs), expected)


def test_after_a_resume_it_goes_on_for_the_epochs_that_were_asked_for(tmp_path: Path) -> None:
    run = taught(tmp_path / "run")
    run.until_masked()
    run.session.detach()
    resumed = taught(tmp_path / "run")
    inputs, targets = resumed.train_data
    output = resumed.model(inputs)
    resumed.session.log.marks.append(Mark(resumed.session.epoch, "mask", "the last one was not saved yet"))
    assert resumed.session.loss(output, targets, inputs) != resumed.loss(output, targets)
    resumed.session.log.marks[-1] = Mark(resumed.session.epoch - 1, "mask", "an epoch ago")
    assert resumed.session.loss(output, targets, inputs) == resumed.loss(output, targets)


def test_a_teacher_that_cannot_be_read_ends_no_step_and_is_told_once(tmp_path: Path) -> None:
    run = taught(tmp_path / "run")
    run.until_masked()
    run.session.parts.saving.settle()
    held = run.session.parts.saving.held(TEACHER)
    assert held is not None
    shutil.rmtree(held.path)
    inputs, targets = run.train_data
    output = run.model(inputs)
    for _ in range(2):
        assert run.session.loss(output, targets, inputs) == run.loss(output, targets)
    (told,) = (note for note in run.session.log.notes if "cannot be read" in note)
    assert "pruning.recovery.distill" in told
    run.session.detach()


def test_inputs_are_asked_for(tmp_path: Path) -> None:
    run = taught(tmp_path / "run")
    inputs, targets = run.train_data
    with pytest.raises(ConfigError, match=r"session.loss\(output, target, inputs\)"):
        run.session.loss(run.model(inputs), targets)


def test_a_loop_that_never_asks_for_the_loss_is_told_so(tmp_path: Path) -> None:
    run = taught(tmp_path / "run")
    run.until_masked()
    run.epoch(lambda _: 0.5)
    assert any("nothing was taught" in note for note in run.session.log.notes)


def test_without_validation_readers_still_make_up_for_what_goes(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", validation={"validation": "none", "limits": {"channel": 0.0}})
    run.until_masked()
    watch = run.session.parts.trial.watch
    assert watch is not None
    changes = watch.changes
    assert changes
    assert any(change.any() for change in changes.values())
