"""At what limits a plan is offered, and what is offered after a no."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.emrakul.plan.offers import next_offer, with_leeway
from esper.emrakul.plan.plan import Plan
from esper.emrakul.plan.selection import make_plan
from esper.emrakul.plan.shrinking import shrink
from esper.emrakul.plan.situation import Situation
from esper.emrakul.schedule import Allowance
from esper.leyline import Level
from tests.emrakul.networks import measured, resnet8
from tests.emrakul.plan.situations import HALF, allowance

WHOLE = Situation.whole(resnet8())


def plan(fraction: float) -> Plan:
    return make_plan(WHOLE, measured(resnet8()), allowance(fraction), HALF)


def step(end: float | None = 0.6, steps_left: int = 3) -> Allowance:
    levels = (Level.CHANNEL,)
    return Allowance("flops", 0.45, 0.47, levels, "ramp", "", end, steps_left=steps_left)


@given(st.floats(0.0, 1.0), st.floats(0.0, 4.0))
def test_the_limits_are_wider_the_more_of_the_run_is_ahead(share: float, factor: float) -> None:
    hasty = with_leeway(plan(0.45), WHOLE, step(), share, factor)  # a third of what is left would be 0.2
    assert hasty.leeway == pytest.approx(1 + factor * share)
    needed = with_leeway(plan(0.19), WHOLE, step(), share, factor)
    assert needed.leeway == pytest.approx(1 + factor)


def test_as_units_are_whole_an_even_share_is_what_falls_short_of_it_without_its_costliest() -> None:
    even = plan(0.2)
    assert even.removed_after > 0.2
    assert with_leeway(even, WHOLE, step(), 0.1, 1.0).leeway == 2


def test_the_last_step_may_cost_as_much_as_the_first() -> None:
    assert with_leeway(plan(0.45), WHOLE, step(0.45, steps_left=1), 0.1, 1.0).leeway == 2
    assert with_leeway(plan(0.45), WHOLE, step(0.45, steps_left=2), 0.1, 1.0).leeway == pytest.approx(1.1)


def test_without_a_way_to_a_target_the_limits_are_as_they_are_set() -> None:
    assert with_leeway(plan(0.3), WHOLE, step(end=None), 0.9, 1.0).leeway == 1
    assert with_leeway(plan(0.3), WHOLE, step(), 0.9, 0.0).leeway == 1


def test_after_a_no_half_is_offered_where_that_is_enough_else_an_even_share_then_half_of_that() -> None:
    refused = plan(0.45)
    half = shrink(refused, WHOLE)
    assert next_offer(refused, WHOLE, step(steps_left=30)).id == half.id  # an even share is less
    assert next_offer(refused, WHOLE, step(end=None)).id == half.id
    few = step(end=half.removed_after + 0.05, steps_left=1)
    even = next_offer(refused, WHOLE, few)
    assert half.removed_after + 0.05 <= even.removed_after < refused.removed_after
    assert set(half.units.tolist()) <= set(even.units.tolist()) < set(refused.units.tolist())
    assert next_offer(even, WHOLE, few).id == shrink(even, WHOLE).id
