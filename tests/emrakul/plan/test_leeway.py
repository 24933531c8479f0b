"""How much more than the limits a plan may cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.emrakul.plan.leeway import with_leeway
from esper.emrakul.plan.plan import Plan
from esper.emrakul.plan.selection import make_plan
from esper.emrakul.plan.situation import Situation
from esper.emrakul.schedule import Allowance
from esper.leyline import Level
from tests.emrakul.networks import measured, resnet8
from tests.emrakul.plan.situations import HALF, allowance


def plan(removed_after: float, removed_before: float = 0.2) -> Plan:
    made = make_plan(Situation.whole(resnet8()), measured(resnet8()), allowance(0.3), HALF)
    return replace(made, removed_before=removed_before, removed_after=removed_after)


def step(end: float | None = 0.5, steps_left: int = 3) -> Allowance:
    levels = (Level.CHANNEL,)
    return Allowance("flops", 0.45, 0.47, levels, "ramp", "", end, steps_left=steps_left)


@given(st.floats(0.0, 1.0), st.floats(0.0, 4.0))
def test_the_limits_are_wider_the_more_of_the_run_is_ahead(share: float, factor: float) -> None:
    hasty = with_leeway(plan(0.45), step(), share, factor)  # a third of what is left would be 0.3
    assert hasty.leeway == pytest.approx(1 + factor * share)
    needed = with_leeway(plan(0.3), step(), share, factor)
    assert needed.leeway == pytest.approx(1 + factor)


def test_the_last_step_may_cost_as_much_as_the_first() -> None:
    assert with_leeway(plan(0.5), step(steps_left=1), 0.1, 1.0).leeway == 2
    assert with_leeway(plan(0.5), step(steps_left=2), 0.1, 1.0).leeway == pytest.approx(1.1)


def test_without_a_way_to_a_target_the_limits_are_as_they_are_set() -> None:
    assert with_leeway(plan(0.3), step(end=None), 0.9, 1.0).leeway == 1
    assert with_leeway(plan(0.3), step(), 0.9, 0.0).leeway == 1
