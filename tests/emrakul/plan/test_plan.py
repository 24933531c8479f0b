from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from esper.anatomy import Anatomy
from esper.elesh import Evidence
from esper.emrakul.plan.candidates import step_sizes
from esper.emrakul.plan.finalists import finalists
from esper.emrakul.plan.floors import floors
from esper.emrakul.plan.plan import Plan, Rejection
from esper.emrakul.plan.ramp_end import bounds
from esper.emrakul.plan.selection import make_plan
from esper.emrakul.plan.situation import Situation
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings
from esper.errors import EvidenceError, MaskError
from esper.leyline import Level, decode, encode
from tests.emrakul.networks import chain, measured, resnet8
from tests.emrakul.plan.situations import HALF, allowance, kept_counts, situations


@given(situations())
def test_a_plan_never_passes_floors_limit_rounding_or_loss(
    situation: tuple[Anatomy, Evidence, Allowance, Settings],
) -> None:
    anatomy, evidence, allowed, settings = situation
    plan = make_plan(Situation.whole(anatomy), evidence, allowed, settings)
    kept = kept_counts(anatomy, plan)
    limits = bounds(Situation.whole(anatomy), evidence.screen, settings)
    for number, group in enumerate(anatomy.groups):
        if kept[number] < group.width:
            assert kept[number] >= floors(Situation.whole(anatomy), settings)[number]
            assert kept[number] >= limits.floors[number]
            assert kept[number] % step_sizes(anatomy, limits.round_to)[number] == 0
            assert group.kind.value in allowed.levels
        share = settings.plan.max_layer_fraction
        assert share is None or group.width - kept[number] <= max(share * group.width + 1e-9, 1)
    assert plan.removed_after <= allowed.limit_fraction + 1e-9
    assert plan.removed_after == pytest.approx(1 - anatomy.flops(plan.keep) / anatomy.flops(), abs=1e-9)
    assert plan.saved_cost.sum() == pytest.approx(anatomy.flops() - anatomy.flops(plan.keep), abs=1e-6)
    if settings.plan.allowed_loss_increase is not None:
        assert plan.total_predicted_loss <= settings.plan.allowed_loss_increase + 1e-9


@given(situations())
def test_what_was_not_measured_well_enough_is_never_cut(
    situation: tuple[Anatomy, Evidence, Allowance, Settings],
) -> None:
    anatomy, evidence, allowed, settings = situation
    plan = make_plan(Situation.whole(anatomy), evidence, allowed, settings)
    assert np.isfinite(evidence.loss_increase[plan.units]).all()
    assert (evidence.confidence[plan.units] >= settings.required_confidence).all()


@given(situations())
def test_every_finalist_is_either_cut_or_has_a_reason(
    situation: tuple[Anatomy, Evidence, Allowance, Settings],
) -> None:
    anatomy, evidence, allowed, settings = situation
    asked = np.arange(anatomy.num_units)
    plan = make_plan(Situation.whole(anatomy), evidence, allowed, settings, finalists=asked)
    accounted = np.concatenate([plan.units, *plan.rejected.values()])
    assert sorted(accounted.tolist()) == asked.tolist()


@given(situations())
def test_the_same_evidence_gives_the_same_plan(
    situation: tuple[Anatomy, Evidence, Allowance, Settings],
) -> None:
    anatomy, evidence, allowed, settings = situation
    once, again = (make_plan(Situation.whole(anatomy), evidence, allowed, settings) for _ in range(2))
    assert encode(once) == encode(again)
    assert once.id == again.id


@given(situations())
def test_a_plan_survives_json(situation: tuple[Anatomy, Evidence, Allowance, Settings]) -> None:
    anatomy, evidence, allowed, settings = situation
    plan = make_plan(Situation.whole(anatomy), evidence, allowed, settings)
    again = decode(Plan, json.loads(json.dumps(encode(plan), allow_nan=False)))
    assert again.id == plan.id
    np.testing.assert_array_equal(again.keep, plan.keep)


@pytest.mark.parametrize("seed", range(5))
def test_half_the_flops_of_a_narrow_resnet_can_go_under_the_default_floors(seed: int) -> None:
    anatomy = resnet8()
    evidence = measured(anatomy, seed)
    evidence = replace(evidence, confidence=np.ones(anatomy.num_units))
    plan = make_plan(Situation.whole(anatomy), evidence, allowance(0.5), HALF)
    assert 0.5 <= plan.removed_after <= 0.52
    assert not plan.notes


def test_a_goal_that_floors_forbid_is_said_to_be_out_of_reach() -> None:
    anatomy = resnet8()
    strict = Settings.model_validate({"target": {"flops": 0.5}, "floors": {"min_keep_fraction": 0.9}})
    plan = make_plan(Situation.whole(anatomy), measured(anatomy), allowance(0.5), strict)
    assert plan.removed_after < 0.5
    assert "instead of 50.0%" in plan.notes[0]
    assert "floor" in plan.notes[0]


def test_the_cheapest_loss_per_saved_cost_goes_first() -> None:
    anatomy = chain([32, 32], pixels=16)
    loss = np.full(64, 0.5)
    loss[[3, 40]] = [0.001, 0.002]
    evidence = replace(measured(anatomy), loss_increase=loss, confidence=np.ones(64))
    plan = make_plan(Situation.whole(anatomy), evidence, allowance(0.05), HALF)
    assert set(plan.units[:2].tolist()) == {3, 40}


def test_the_margin_covers_what_units_cost_together() -> None:
    anatomy = resnet8()
    evidence = measured(anatomy)
    for rules, margin in ((HALF, 1.0), (Settings(staged=True), 1.5)):  # in stages they are measured alone
        plan = make_plan(Situation.whole(anatomy), evidence, allowance(0.2), rules)
        losses = np.abs(evidence.loss_increase[plan.units])
        assert plan.units.size
        assert plan.total_predicted_loss == pytest.approx(margin * losses.sum())


def test_units_that_are_gone_already_are_not_planned_again() -> None:
    anatomy, evidence = resnet8(), measured(resnet8())
    first = make_plan(Situation.whole(anatomy), evidence, allowance(0.2), HALF)
    second = make_plan(Situation.whole(anatomy).under(first.keep), evidence, allowance(0.4), HALF)
    assert not set(first.units.tolist()) & set(second.units.tolist())
    assert second.removed_before == pytest.approx(first.removed_after)
    assert second.removed_after >= 0.4


def test_each_reason_is_given_to_the_units_that_it_holds_back() -> None:
    anatomy = chain([20], heads=4)
    evidence = measured(anatomy)
    loss, confidence = np.full(24, 0.01), np.ones(24)
    loss[0], confidence[1], confidence[2] = np.nan, np.nan, 0.5
    evidence = replace(evidence, loss_increase=loss, confidence=confidence)
    settings = Settings.model_validate(
        {
            "staged": True,
            "plan": {"round_to": 8},
            "floors": {"min_keep_fraction": 0.5, "narrow_keep_fraction": 0.5},
        }
    )
    plan = make_plan(
        Situation.whole(anatomy),
        evidence,
        allowance(0.9, levels=(Level.CHANNEL,)),
        settings,
        finalists=np.arange(24),
    )
    found = {reason: units.tolist() for reason, units in plan.rejected.items()}
    assert found[Rejection.LEVEL] == [20, 21, 22, 23]
    assert found[Rejection.UNMEASURED] == [0, 1]
    assert found[Rejection.CONFIDENCE] == [2]
    assert len(plan.units) == 4  # 20 to 16: a multiple of 8 at or above the floor of 10
    assert len(found[Rejection.ROUNDING]) == 6
    assert len(found[Rejection.FLOOR]) == 7


def test_a_loss_that_is_not_allowed_is_a_reason() -> None:
    anatomy = resnet8()
    settings = Settings.model_validate({"target": {"flops": 0.5}, "plan": {"allowed_loss_increase": 0.01}})
    plan = make_plan(Situation.whole(anatomy), measured(anatomy), allowance(0.5), settings)
    assert plan.total_predicted_loss <= 0.01
    assert plan.rejected[Rejection.LOSS].size > 0


def test_what_a_partial_analysis_left_out_is_noted() -> None:
    anatomy = resnet8()
    evidence = replace(measured(anatomy), is_partial=True, notes=("Task 3 was lost.",))
    plan = make_plan(Situation.whole(anatomy), evidence, allowance(0.1), HALF)
    assert plan.notes == ("The analysis was partial; what it left out stays.", "Task 3 was lost.")


def test_evidence_about_another_network_is_refused() -> None:
    anatomy = chain([20])
    with pytest.raises(EvidenceError, match="Analyze the present checkpoint again"):
        make_plan(Situation.whole(anatomy), measured(chain([21])), allowance(0.5), HALF)


def test_a_mask_of_another_network_is_refused() -> None:
    anatomy = chain([20])
    with pytest.raises(MaskError):
        Situation.whole(anatomy).under(np.ones(3, np.bool_))


def test_a_hundred_thousand_units_are_planned() -> None:
    anatomy = chain([1000] * 100, pixels=1)
    plan = make_plan(Situation.whole(anatomy), measured(anatomy), allowance(0.5), HALF)
    assert 0.5 <= plan.removed_after <= 0.5001


@given(situations())
def test_finalists_are_screened_units_of_a_kind_that_may_go(
    situation: tuple[Anatomy, Evidence, Allowance, Settings],
) -> None:
    anatomy, evidence, allowed, settings = situation
    screen = np.where(np.isnan(evidence.loss_increase), np.nan, evidence.screen)
    keep = np.arange(anatomy.num_units) % 5 > 0
    asked = finalists(Situation.whole(anatomy).under(keep), screen, allowed, settings)
    assert (np.diff(asked) > 0).all()
    assert keep[asked].all()
    assert np.isfinite(screen[asked]).all()
    assert {anatomy.groups[int(group)].kind.value for group in anatomy.group_of[asked]} <= set(allowed.levels)


@pytest.mark.parametrize("goal", [0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("anatomy", [resnet8(), chain([64] * 6, heads=8), chain([300, 40, 300])])
def test_finalists_are_enough_to_reach_the_goal_but_not_everything(anatomy: Anatomy, goal: float) -> None:
    evidence = measured(anatomy)
    asked = finalists(Situation.whole(anatomy), evidence.screen, allowance(goal), HALF)
    ablated = np.isin(np.arange(anatomy.num_units), asked)
    evidence = replace(
        evidence,
        loss_increase=np.where(ablated, evidence.loss_increase, np.nan),
        confidence=np.where(ablated, 1.0, np.nan),
    )
    assert make_plan(Situation.whole(anatomy), evidence, allowance(goal), HALF).removed_after >= goal
    assert asked.size <= anatomy.num_units * (0.4 if goal < 0.1 else 1)


def test_finalists_are_spread_over_layers() -> None:
    anatomy = resnet8()
    asked = finalists(Situation.whole(anatomy), measured(anatomy).screen, allowance(0.1), HALF)
    assert set(anatomy.group_of[asked].tolist()) == set(range(6))


def test_finalists_without_a_screen_do_not_exist() -> None:
    anatomy = resnet8()
    assert not finalists(Situation.whole(anatomy), np.full(224, np.nan), allowance(0.5), HALF).size


def test_finalists_are_capped() -> None:
    anatomy = resnet8()
    settings = Settings.model_validate({"target": {"flops": 0.5}, "plan": {"max_finalists": 7}})
    assert finalists(Situation.whole(anatomy), measured(anatomy).screen, allowance(0.5), settings).size == 7


def test_few_that_can_go_are_compared_with_others_of_their_kind() -> None:
    anatomy = chain([40, 40], heads=4)
    keep = np.ones(84, np.bool_)
    keep[:19] = False  # 21 are left in the first layer, at least 20 of 40
    keep[40:60] = False  # 20 are left in the second
    screen = np.random.default_rng(0).permutation(84) / 83
    few = (Level.CHANNEL,)
    asked = finalists(Situation.whole(anatomy).under(keep), screen, allowance(0.9, levels=few), HALF)
    of_its_layer = np.flatnonzero(keep[:40])
    assert asked.tolist() == sorted(of_its_layer[np.argsort(screen[of_its_layer])][:16].tolist())


def test_what_changes_the_loss_least_goes_first_and_not_what_lowers_it_most() -> None:
    anatomy = resnet8()
    evidence = measured(anatomy)
    first = anatomy.group_of == 0
    rises = np.where(first, np.linspace(-1.0, 1.0, first.size), 5.0)
    sure = replace(evidence, loss_increase=rises, confidence=np.ones(anatomy.num_units))
    plan = make_plan(Situation.whole(anatomy), sure, allowance(0.02), HALF)
    gone = np.isin(np.arange(anatomy.num_units), plan.units)
    assert plan.units.size
    assert np.abs(rises[gone]).max() <= np.abs(rises[first & ~gone]).min()
    np.testing.assert_array_equal(plan.loss_increase, rises[plan.units])  # told as it was measured
