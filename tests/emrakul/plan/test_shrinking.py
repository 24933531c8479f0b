"""Smaller versions of a plan, and which of them is applied."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from esper.anatomy import Anatomy
from esper.elesh import Evidence
from esper.emrakul.plan.candidates import step_sizes
from esper.emrakul.plan.plan import Plan, Rejection
from esper.emrakul.plan.selection import make_plan
from esper.emrakul.plan.shrinking import down_to, largest_version, shrink
from esper.emrakul.plan.situation import Situation
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings
from tests.emrakul.networks import measured, resnet8
from tests.emrakul.plan.situations import HALF, allowance, kept_counts, situations


@given(situations())
def test_shrinking_halves_the_predicted_loss_and_keeps_every_rule(
    situation: tuple[Anatomy, Evidence, Allowance, Settings],
) -> None:
    anatomy, evidence, allowed, settings = situation
    plan = make_plan(Situation.whole(anatomy), evidence, allowed, settings)
    assume(not plan.is_empty)
    small = shrink(plan, Situation.whole(anatomy))
    round_to = settings.plan.round_to if settings.staged else 1  # towards a target only the end is rounded
    steps = step_sizes(anatomy, round_to)
    assert np.unique(small.blocks).size <= np.unique(plan.blocks).size * 3 / 4
    assert small.total_predicted_loss <= plan.total_predicted_loss / 2 + 1e-12
    assert set(small.units.tolist()) <= set(plan.units.tolist())
    assert small.removed_after == pytest.approx(1 - anatomy.flops(small.keep) / anatomy.flops(), abs=1e-9)
    for kept, group, step in zip(kept_counts(anatomy, small), anatomy.groups, steps, strict=True):
        assert kept == group.width or kept % step == 0
    assert small.id != plan.id


@given(situations(), st.floats(0.0, 1.0))
def test_the_least_that_still_reaches_a_share_falls_short_of_it_without_its_costliest_block(
    situation: tuple[Anatomy, Evidence, Allowance, Settings], share: float
) -> None:
    anatomy, evidence, allowed, settings = situation
    whole = Situation.whole(anatomy)
    plan = make_plan(whole, evidence, allowed, settings)
    assume(not plan.is_empty)
    fraction = plan.removed_after * share
    least = down_to(plan, whole, fraction)
    assert set(least.units.tolist()) <= set(plan.units.tolist())
    assert least.removed_after == pytest.approx(1 - anatomy.flops(least.keep) / anatomy.flops(), abs=1e-9)
    assert least.removed_after >= fraction - 1e-9
    assert down_to(least, whole, fraction).id == least.id
    assert down_to(plan, whole, 2.0) is plan  # it never goes so far
    if least.units.size and fraction > 0:
        losses = {one: least.predicted_loss[least.blocks == one].sum() for one in set(least.blocks.tolist())}
        costly = max(losses, key=lambda one: (round(losses[one], 12), one))  # of equal ones the last
        left = least.keep.copy()
        left[least.units[least.blocks == costly]] = True
        assert 1 - anatomy.flops(left) / anatomy.flops() < fraction + 1e-9


def test_a_plan_that_shrinks_again_and_again_ends_empty() -> None:
    anatomy = resnet8()
    plan = make_plan(Situation.whole(anatomy), measured(anatomy), allowance(0.3), HALF)
    sizes = [plan.units.size]
    while not plan.is_empty:
        plan = shrink(plan, Situation.whole(anatomy))
        sizes.append(plan.units.size)
    assert sizes == sorted(sizes, reverse=True)
    assert plan.keep.all()
    assert plan.rejected[Rejection.SHRUNK].size == sizes[0]
    assert shrink(plan, Situation.whole(anatomy)).is_empty


@given(situations(), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_larger_share_holds_all_of_a_smaller_one(
    situation: tuple[Anatomy, Evidence, Allowance, Settings], one: float, other: float
) -> None:
    anatomy, evidence, allowed, settings = situation
    whole = Situation.whole(anatomy)
    plan = make_plan(whole, evidence, allowed, settings)
    small, large = (set(shrink(plan, whole, share).units.tolist()) for share in sorted((one, other)))
    assert small <= large <= set(plan.units.tolist())


def asked(plan: Plan, bearable: int, *, is_last: bool, attempts: int = 4) -> tuple[int, list[int]]:
    """Units of the version that is chosen if so many are bearable, and of all that were asked about."""
    sizes: list[int] = []

    def holds(version: Plan) -> bool:
        sizes.append(version.units.size)
        return version.units.size <= bearable

    version = largest_version(plan, Situation.whole(resnet8()), holds, attempts, is_last=is_last)
    return version.units.size, sizes


def test_the_first_version_that_holds_is_taken_and_the_last_plan_is_cut_back_no_further_than_needed() -> None:
    plan = make_plan(Situation.whole(resnet8()), measured(resnet8()), allowance(0.4), HALF)
    count = plan.units.size
    half = shrink(plan, Situation.whole(resnet8())).units.size
    assert asked(plan, count, is_last=True) == (count, [count])
    assert asked(plan, count - 1, is_last=False) == (half, [count, half])
    size, sizes = asked(plan, count - 1, is_last=True)
    assert half < size == max(sizes[1:]) < count
    assert len(sizes) == 4
    assert asked(plan, half, is_last=True)[0] == half


def test_what_holds_in_no_version_is_answered_with_the_smallest_that_was_asked_about() -> None:
    plan = make_plan(Situation.whole(resnet8()), measured(resnet8()), allowance(0.4), HALF)
    size, sizes = asked(plan, -1, is_last=True)
    assert size == sizes[-1] == min(sizes)
    assert len(sizes) == 4
