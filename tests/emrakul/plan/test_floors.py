"""Floors hold, and those that nobody has asked for make way for the target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from esper.anatomy import Anatomy
from esper.emrakul.plan import Situation, fewest_left, floors
from esper.emrakul.settings import Settings
from tests.emrakul.networks import chain, resnet8


def lowest(anatomy: Anatomy, **asked: Any) -> list[int]:
    return [int(n) for n in floors(Situation.whole(anatomy), Settings.model_validate(asked))]


def reach(anatomy: Anatomy, counts: list[int]) -> float:
    """Share of the FLOPs that is gone where every group keeps so many units."""
    keep = np.zeros(anatomy.num_units, np.bool_)
    for number, count in enumerate(counts):
        keep[anatomy.unit_slice(number).start :][:count] = True
    return 1 - anatomy.flops(keep) / anatomy.flops()


def test_wide_layers_keep_what_the_target_leaves() -> None:
    assert lowest(resnet8(), target={"flops": 0.5}) == [
        max(16, group.width // 2) if group.width > 16 else 8 for group in resnet8().groups
    ]


@pytest.mark.parametrize("anatomy", [chain([12]), chain([8, 8]), chain([20])])
def test_floors_leave_a_choice_to_every_target(anatomy: Anatomy) -> None:
    for target in (0.2, 0.5, 0.7):
        assert reach(anatomy, lowest(anatomy, target={"flops": target})) > target


def test_floors_that_were_asked_for_hold_whatever_the_target() -> None:
    asked = {"min_keep_fraction": 0.9, "narrow_keep_fraction": 0.9, "min_channels": 30, "min_heads": 2}
    assert lowest(chain([40, 20], heads=3), target={"flops": 0.8}, floors=asked) == [36, 18, 2]


def test_stages_are_not_lowered() -> None:
    assert lowest(chain([40, 12], heads=3), staged=True) == [32, 12, 2]


def test_no_layer_is_left_with_a_single_channel_which_would_broadcast() -> None:
    assert lowest(chain([6]), target={"flops": 0.9}) == [2]


def test_floors_of_what_may_go_make_way_for_what_cannot_be_cut() -> None:
    anatomy = chain([80, 80])
    may_go = np.zeros(anatomy.num_units, np.bool_)
    may_go[anatomy.unit_slice(0)] = True
    situation = Situation.whole(anatomy)
    settings = Settings.model_validate({"target": {"flops": 0.3}})
    all_free, one_free = floors(situation, settings), floors(replace(situation, may_go=may_go), settings)
    assert reach(anatomy, [int(all_free[0]), 80]) < 0.3 < reach(anatomy, [int(one_free[0]), 80])


def test_the_most_that_can_go_is_what_floors_and_code_leave() -> None:
    anatomy = chain([80, 80])
    may_go = np.zeros(anatomy.num_units, np.bool_)
    may_go[anatomy.unit_slice(0)] = True
    situation = Situation.whole(anatomy)
    settings = Settings.model_validate(
        {"target": {"flops": 0.95}, "floors": {"min_channels": 3, "narrow_keep_fraction": 0.5}}
    )
    keep = fewest_left(replace(situation, may_go=may_go), settings)
    assert [int(keep[anatomy.unit_slice(n)].sum()) for n in range(2)] == [3, 80]
    keep = fewest_left(situation, Settings.model_validate({"target": {"flops": 0.95}}))
    assert situation.under(keep).removed_fraction("flops") >= 0.95
