"""What a run takes decides how many cycles it pays for, and which cuts are worth their time."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from esper.session.spending import Spending
from tests.session.runs import Training


def spending(run: Training, share: float | None) -> Spending:
    parts = run.session.parts
    pruning = parts.terms.config.pruning
    budget = pruning.budget.model_copy(update={"compute_fraction": share})
    rules = pruning.model_copy(update={"budget": budget})
    parts.terms.config = parts.terms.config.model_copy(update={"pruning": rules})
    return Spending(parts.network, parts.copies, parts.terms, parts.log)


@pytest.fixture
def run(tmp_path: Path) -> Training:
    training = Training(tmp_path / "run")
    training.epoch()
    rows = training.session.log.epochs
    rows[0] = replace(rows[0], seconds=10.0)
    training.session.parts.network.look_seconds = 2.0
    return training


def test_cycles_are_paid_for_by_what_they_have_cost(run: Training) -> None:
    budget = spending(run, 0.5)
    whole = 10.0 * run.session.parts.terms.epochs  # type: ignore[operator]  # the run has a number of epochs
    assert budget.affordable_cycles() == pytest.approx(0.5 * whole / 4.0)  # twice a look, until one has ended
    budget.cycle_ended(6.0)
    assert budget.affordable_cycles() == pytest.approx((0.5 * whole - 6.0) / 6.0)


def test_two_cycles_are_paid_for_in_any_case_and_one_more_after_them(run: Training) -> None:
    budget = spending(run, 0.001)
    assert budget.affordable_cycles() == 2.0
    for left in (1.0, 1.0, 1.0):
        budget.cycle_ended(100.0)
        assert budget.affordable_cycles() == left


def test_without_a_share_the_clock_decides_nothing(run: Training) -> None:
    assert spending(run, None).affordable_cycles() == math.inf


def test_ablation_has_half_of_what_a_cycle_has_and_that_is_an_epoch_at_most(run: Training) -> None:
    budget = spending(run, 0.8)
    whole = 0.8 * 10.0 * run.session.parts.terms.epochs  # type: ignore[operator]  # the run has a number of epochs
    assert budget.enough_seconds(6) == pytest.approx(whole / 6 / 2)
    assert budget.enough_seconds(100) == pytest.approx(whole / 8 / 2)  # more steps than that are not taken
    assert budget.enough_seconds(1) == 5.0
    budget.cycle_ended(whole - 10.0)
    assert budget.enough_seconds(2) == pytest.approx(2.5)
    budget.cycle_ended(100.0)
    assert budget.enough_seconds(0) == 2.0


def test_ablation_has_all_the_time_where_no_clock_decides_or_single_units_have_to_be_sure(
    run: Training,
) -> None:
    assert spending(run, None).enough_seconds(4) == math.inf
    budget, terms = spending(run, 0.5), run.session.parts.terms
    rules = terms.config.pruning.model_copy(update={"target": None})
    terms.config = terms.config.model_copy(update={"pruning": rules})
    assert budget.enough_seconds(4) == math.inf


def test_a_cut_waits_where_it_would_take_longer_than_it_saves(run: Training) -> None:
    while not run.session.parts.network.masks.num_masked:
        run.epoch()
    network = run.session.parts.network
    assert spending(run, None).worthwhile_cut() is not None
    network.look_seconds = 1e-6
    assert spending(run, 0.1).worthwhile_cut() is not None
    network.look_seconds = 1e6
    assert spending(run, 0.1).worthwhile_cut() is None


@pytest.mark.parametrize(("epoch", "wait"), [(0.2, 10.0), (25.0, 25.0), (900.0, 60.0)])
def test_an_end_waits_for_an_analysis_as_long_as_an_epoch_takes(
    run: Training, epoch: float, wait: float
) -> None:
    rows = run.session.log.epochs
    rows[0] = replace(rows[0], seconds=epoch)
    assert waiting(run, None).longest_wait_seconds == wait


def test_an_end_waits_as_long_as_was_asked(run: Training) -> None:
    assert waiting(run, 0.5).longest_wait_seconds == 0.5


def waiting(run: Training, asked: float | None) -> Spending:
    """Of a run in which `max_wait_seconds` is this."""
    terms = run.session.parts.terms
    analysis = terms.config.analysis.model_copy(update={"max_wait_seconds": asked})
    terms.config = terms.config.model_copy(update={"analysis": analysis})
    return Spending(run.session.parts.network, run.session.parts.copies, terms, run.session.log)
