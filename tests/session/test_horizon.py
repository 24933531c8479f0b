"""Without `epochs=` the learning-rate schedule says how long a run is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Optimizer
from torch.optim import lr_scheduler as lr

from esper.session.horizon import Horizon, planned_by
from tests.session.runs import EPOCHS, Training

BATCHES = 7
Schedule = Callable[[Optimizer, int], lr.LRScheduler]


def after_one_epoch(make: Schedule, steps: int) -> object:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], 0.1)
    scheduler = make(optimizer, steps)
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    return scheduler


SCHEDULES: dict[str, Schedule] = {
    "cosine": lambda o, n: lr.CosineAnnealingLR(o, 12 * n),
    "one cycle": lambda o, n: lr.OneCycleLR(o, 0.1, total_steps=12 * n),
    "polynomial": lambda o, n: lr.PolynomialLR(o, 12 * n),
    "warm-up and cosine": lambda o, n: lr.SequentialLR(
        o, [lr.LinearLR(o, 0.1), lr.CosineAnnealingLR(o, 10 * n)], [2 * n]
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, BATCHES])
def test_a_schedule_that_ends_with_the_training_says_when(name: str, steps: int) -> None:
    assert planned_by(after_one_epoch(SCHEDULES[name], steps), 1) == 12


def test_a_schedule_that_is_stepped_after_the_epoch_is_told_says_it_too() -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], 0.1)
    assert planned_by(lr.CosineAnnealingLR(optimizer, 12), 1) == 12


def test_a_schedule_counts_periods_of_steps_only_if_it_is_stepped_with_the_optimizer() -> None:
    by_step = after_one_epoch(SCHEDULES["cosine"], BATCHES)
    assert planned_by(by_step, 1, BATCHES) == 12
    optimizer = SGD([torch.zeros(1, requires_grad=True)], 0.1)
    assert planned_by(lr.CosineAnnealingLR(optimizer, 12), 1, BATCHES) is None


def test_a_schedule_that_has_not_been_stepped_yet_counts_no_periods_of_one_step() -> None:
    optimizer = SGD([torch.zeros(1, requires_grad=True)], 0.1)
    assert planned_by(lr.CosineAnnealingLR(optimizer, 12), 1, 1) is None


def test_schedules_without_an_end_say_nothing() -> None:
    for make in (lambda o, _: lr.StepLR(o, 3), lambda o, _: lr.LambdaLR(o, lambda n: 0.9**n)):
        assert planned_by(after_one_epoch(make, 1), 1) is None
    assert planned_by(object(), 1) is None


def test_the_ramp_spreads_over_the_schedule(tmp_path: Path) -> None:
    run = Training(tmp_path / "run")
    terms: Any = run.session.parts.terms
    terms.epochs = None
    run.epoch()
    assert terms.epochs == 12
    assert any(
        "12 epochs, the length of the learning-rate schedule" in note for note in run.session.log.notes
    )


@pytest.mark.parametrize(
    "ramp", [{"start_epoch": 5, "end_epoch": 20}, {"end_epoch": 1, "start_fraction": 0.5}]
)
def test_a_length_that_leaves_the_ramp_no_room_is_not_taken_and_ends_no_training(
    tmp_path: Path, ramp: dict[str, Any]
) -> None:
    run = Training(tmp_path / "run")
    terms: Any = run.session.parts.terms
    pruning = terms.config.pruning
    schedule = type(pruning.schedule)(**ramp)
    terms.config = terms.config.model_copy(
        update={"pruning": pruning.model_copy(update={"schedule": schedule})}
    )
    terms.epochs = None
    run.epoch()
    assert terms.epochs is None
    (told,) = (note for note in run.session.log.notes if "attach(epochs=...)" in note)
    assert "because 12 epochs, the length of the learning-rate schedule, leave the ramp no room" in told
    run.session.detach()


def test_people_are_told_once_what_is_assumed(tmp_path: Path) -> None:
    run = Training(tmp_path / "run")
    parts = run.session.parts
    parts.terms.epochs = None
    horizon = Horizon((), parts.runner, parts.terms, parts.log)
    run.session.parts = replace(parts, horizon=horizon)
    for _ in range(2):
        run.epoch()
    told = [note for note in run.session.log.notes if "attach(epochs=...)" in note]
    assert len(told) == 1
    assert "planned for 8 epochs, because nobody said" in told[0]


def test_the_first_epoch_beyond_the_plan_is_told_with_how_a_loop_that_resumes_begins(tmp_path: Path) -> None:
    run = Training(tmp_path / "run")
    log, told = run.session.log, "`while session.epoch < 6`"
    for _ in range(EPOCHS):
        log.progress.epoch += 1
        run.session.parts.horizon.look()
    assert not any(told in note for note in log.notes)
    for _ in range(2):
        log.progress.epoch += 1
        run.session.parts.horizon.look()
    assert sum(told in note for note in log.notes) == 1
    run.session.detach()
