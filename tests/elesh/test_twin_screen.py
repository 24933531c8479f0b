"""Tier 2 in a cycle: it joins the screen where it is there, and is missed by nobody where it is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from esper.elesh.evidence import Evidence, Tier
from esper.elesh.settings import AnalysisSettings, HeadWeights
from esper.elesh.twin_screen import SecondLook
from esper.emrakul import Allowance, Settings
from esper.emrakul.plan import Rejection, Situation, make_plan
from esper.leyline import Level
from esper.workers import InlinePool
from tests.elesh.cases import Saved, saved
from tests.elesh.test_analyst import FINALISTS, LossyPool, analyst
from tests.elesh.test_second_tier import twins_inside

LOOKING = AnalysisSettings(units_per_task=16, min_optimizer_steps=1, measure_twin=True, layers_per_task=1)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Saved]:
    made = saved(tmp_path, build=twins_inside)
    yield made
    made.store.close()


def test_without_being_asked_nothing_is_looked_at(made: Saved) -> None:
    pool = LossyPool()
    evidence = analyst(made, pool).analyze(FINALISTS, 60.0)
    assert np.isnan(evidence.taylor).all()
    assert (evidence.leaders < 0).all()
    assert {task.function_name.rpartition(":")[2] for task in pool.submitted} == {"screen", "ablate"}


def test_the_twin_is_looked_at_in_tasks_of_a_few_layers(made: Saved) -> None:
    pool = LossyPool()
    looking = replace(analyst(made, pool), settings=LOOKING)
    ranks = looking.screen()
    names = [task.function_name.rpartition(":")[2] for task in pool.submitted]
    assert names == ["screen", "find_units", "find_units", "find_heads", "find_magnitudes"]
    assert ((ranks >= 0) & (ranks <= 1)).all()
    assert not np.array_equal(ranks, analyst(made, InlinePool()).screen())


def test_a_unit_that_is_there_twice_comes_first_and_is_measured_with_its_leader_in_its_place(
    made: Saved,
) -> None:
    looking = replace(analyst(made, InlinePool()), settings=LOOKING, reconstruct=True)
    evidence = looking.analyze(np.arange(48), 60.0)
    follower = next(unit for unit in (5, 6) if evidence.leaders[unit] >= 0)
    leader = int(evidence.leaders[follower])
    assert {follower, leader} == {5, 6}
    assert looking.screen()[follower] == 0.0
    assert evidence.loss_increase[follower] == pytest.approx(0.0, abs=1e-5)
    plain = analyst(made, InlinePool()).analyze(np.arange(48), 60.0)
    assert plain.loss_increase[follower] > 1e-3
    assert (evidence.tiers == int(Tier.ABLATION)).all()

    settings = Settings.model_validate(
        {"target": {"flops": 0.5}, "floors": {"min_channels": 2}, "plan": {"required_confidence": 0.0}}
    )
    allowed = Allowance("flops", 0.4, 0.6, (Level.CHANNEL,), "ramp", "a test")
    plan = make_plan(Situation.whole(made.anatomy), evidence, allowed, settings)
    assert follower in [*plan.units, *plan.rejected[Rejection.BUDGET]]  # it may go
    assert leader in plan.rejected[Rejection.LEADER]


def test_without_reconstruction_nobody_stands_in(made: Saved) -> None:
    looking = replace(analyst(made, InlinePool()), settings=LOOKING, reconstruct=False)
    evidence = looking.analyze(np.arange(48), 60.0)
    assert (evidence.leaders < 0).all()
    assert np.isfinite(evidence.taylor).all()
    plain = analyst(made, InlinePool()).analyze(np.arange(48), 60.0)
    np.testing.assert_array_equal(evidence.loss_increase, plain.loss_increase)


@pytest.mark.parametrize("how", ["lost", "hanging"])
def test_a_part_that_is_lost_leaves_its_units_at_tier_one_and_is_told(made: Saved, how: str) -> None:
    first_layer = (1,)  # the screen is task 0
    pool = LossyPool(lost=first_layer) if how == "lost" else LossyPool(hanging=first_layer)
    looking = replace(analyst(made, pool), settings=LOOKING)
    ranks = looking.screen()
    evidence = looking.analyze(FINALISTS, 60.0)
    assert np.isnan(evidence.taylor[:24]).all()
    assert np.isfinite(evidence.taylor[24:]).all()
    np.testing.assert_array_equal(ranks[:24], analyst(made, InlinePool()).screen()[:24])
    assert any(note.startswith("Tier 2 is missing in part (find_units)") for note in evidence.notes)
    assert not evidence.is_partial  # every finalist was ablated


def test_when_all_of_it_is_lost_the_screen_stands(made: Saved) -> None:
    looking = replace(analyst(made, LossyPool(lost=(1, 2, 3, 4))), settings=LOOKING)
    np.testing.assert_array_equal(looking.screen(), analyst(made, InlinePool()).screen())


def test_patterns_count_for_heads_only_and_least() -> None:
    unknown = np.full(4, np.nan)
    look = SecondLook(
        taylor=np.array([1.0, 2.0, 3.0, 4.0]),
        activation_frequency=np.array([0.5, 0.6, np.nan, np.nan]),
        diversity=np.array([np.nan, np.nan, 0.9, 0.1]),
        focus=unknown,
        magnitude=np.array([1.0, 2.0, 3.0, 4.0]),
        leaders=np.full(4, -1, np.int64),
        folded_rises={},
    )
    ranks = np.array([0.0, 0.3, 0.6, np.nan])
    weights = {"taylor": 0.5, "magnitude": 0.3, "activation_frequency": 0.2}
    joined = look.joined(ranks, weights, HeadWeights())
    assert np.isnan(joined[3])  # what may not go does not come back
    without = look.joined(ranks, weights, HeadWeights(diversity=0.0, focus=0.0))
    assert joined[2] > without[2]
    assert joined[:2].tolist() == without[:2].tolist()
    assert Evidence.unmeasured("d" * 64, 4).num_units == 4
