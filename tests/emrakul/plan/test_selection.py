"""The plan of one step: how far it may go beyond a target that large units cannot meet exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from esper.emrakul.plan.selection import make_plan, plan_step
from esper.emrakul.plan.situation import Situation
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings
from tests.emrakul.networks import chain, measured
from tests.emrakul.plan.situations import LEVELS

ANATOMY = chain([8], heads=4, head_size=64)
HEADS = ANATOMY.unit_slice(1)


def step(goal: float, end: float) -> Allowance:
    """A step to `goal` on the way to `end`, with 2 % to spare, as the schedule gives it."""
    return Allowance("flops", goal, goal + 0.02, LEVELS, "ramp", "because a test says so", end_fraction=end)


def removed(goal: float, end: float, *, exactly: bool = False) -> float:
    """What goes where only heads may, of which each is a large part of the network."""
    evidence = measured(ANATOMY)
    evidence = replace(evidence, loss_increase=np.where(ANATOMY.group_of == 1, 0.001, np.nan))
    settings = Settings.model_validate({"target": {"flops": end}})
    make = make_plan if exactly else plan_step
    plan = make(Situation.whole(ANATOMY), evidence, step(goal, end), settings)
    return plan.removed_after


def head() -> float:
    """The share of the cost that one head is."""
    keep = np.ones(ANATOMY.num_units, np.bool_)
    keep[HEADS.start] = False
    return Situation.whole(ANATOMY).under(keep).removed_fraction("flops")


def test_a_step_that_ends_the_way_takes_a_whole_head_rather_than_stop_short() -> None:
    end = head() - 0.05
    assert 0.02 < head() - end < 0.1
    assert removed(end, end, exactly=True) == 0.0
    assert removed(end, end) == head()


def test_a_step_on_the_way_does_not() -> None:
    assert removed(head() - 0.05, 0.9) == 0.0


def test_nor_does_it_go_further_than_a_tenth() -> None:
    end = head() - 0.15
    assert removed(end, end) == 0.0
