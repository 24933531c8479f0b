from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.anatomy import Anatomy, Member
from esper.urabrask.checks import (
    check_connectivity,
    check_floors,
    check_gradients,
    check_mask,
    check_members,
    check_memory,
    check_only_removes,
)
from esper.urabrask.quality import Measurement
from esper.urabrask.settings import Settings
from tests.emrakul.networks import anatomies, chain, layered, resnet8


def mask(anatomy: Anatomy, *removed: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[list(removed)] = False
    return keep


@pytest.mark.parametrize("keep", [np.ones(5, np.bool_), np.ones(20), np.ones((4, 5), np.bool_)])
def test_a_mask_of_the_wrong_shape_or_type_does_not_fit(
    keep: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
) -> None:
    assert not check_mask(chain([20]), keep).passed


def test_a_mask_that_fits_passes() -> None:
    assert check_mask(chain([20]), mask(chain([20]), 3)).passed


def test_a_plan_revives_nothing() -> None:
    anatomy = chain([20])
    assert check_only_removes(mask(anatomy, 1), mask(anatomy, 1, 2)).passed
    check = check_only_removes(mask(anatomy, 1, 2), mask(anatomy, 2, 3))
    assert not check.passed
    assert check.value == 1


@given(anatomies)
def test_members_of_a_sound_anatomy_agree_with_their_tensors(anatomy: Anatomy) -> None:
    assert check_members(anatomy).passed


@pytest.mark.parametrize(
    "member",
    [
        Member("nowhere", 0, np.arange(20).reshape(-1, 1), "producer"),
        Member("conv0.bias", 1, np.arange(20).reshape(-1, 1), "producer"),
        Member("conv0.bias", 0, np.arange(1, 21).reshape(-1, 1), "producer"),
        Member("conv0.bias", 0, np.zeros((20, 1), np.int64), "producer"),
        Member("conv0.bias", 0, np.arange(19).reshape(-1, 1), "producer"),
        Member("conv0.bias", 0, np.zeros((20, 0), np.int64), "producer"),
    ],
    ids=[
        "unknown tensor",
        "no such axis",
        "beyond the end",
        "twice the same",
        "one too few",
        "no coordinates",
    ],
)
def test_a_member_that_does_not_agree_is_found(member: Member) -> None:
    anatomy = chain([20])
    broken = replace(anatomy, groups=(replace(anatomy.groups[0], members=(member,)),))
    check = check_members(broken)
    assert not check.passed
    assert member.tensor in check.text


def test_a_group_that_loses_everything_cuts_the_path() -> None:
    anatomy = chain([4, 6])
    assert check_connectivity(anatomy, mask(anatomy, 0, 1, 2)).passed
    check = check_connectivity(anatomy, mask(anatomy, 0, 1, 2, 3))
    assert not check.passed
    assert "conv0" in check.text


@given(anatomies, st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_connectivity_holds_exactly_while_every_group_has_a_unit(
    anatomy: Anatomy, seed: int, share: float
) -> None:
    keep = np.random.default_rng(seed).random(anatomy.num_units) >= share
    alive = all(keep[anatomy.unit_slice(number)].any() for number in range(len(anatomy.groups)))
    assert check_connectivity(anatomy, keep).passed == alive


def test_only_groups_that_lose_something_are_held_against_their_floor() -> None:
    anatomy = chain([10, 10])
    before = mask(anatomy, 0, 1, 2, 3, 4)
    floors = np.array([8, 8])
    assert check_floors(anatomy, before, mask(anatomy, 0, 1, 2, 3, 4, 12), floors).passed
    check = check_floors(anatomy, before, mask(anatomy, 0, 1, 2, 3, 4, 12, 13, 14), floors)
    assert not check.passed
    assert "conv1 would keep 7 units, its floor is 8" in check.text


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [
        ((1.0, 2.0), (1.0, 2.0), True),
        ((0.8, 2.0), (0.76, 0.1), True),
        ((0.8, 2.0), (0.75, 2.0), False),
        ((1.0, 2.0), (1.0, 20.0), True),
        ((1.0, 2.0), (1.0, 20.1), False),
        ((1.0, 2.0), (1.0, math.nan), False),
        ((1.0, math.inf), (1.0, 2.0), False),
        ((0.0, 1.0), (1.0, 1.0), False),
        ((1.0, 0.0), (1.0, 1.0), False),
        ((None, 1.0), (1.0, 1.0), False),
        ((1.0, 1.0), (1.0, None), False),
    ],
)
def test_gradients_must_reach_the_survivors_without_exploding(
    before: tuple[float | None, float | None], after: tuple[float | None, float | None], passed: bool
) -> None:
    assert check_gradients(gradients(*before), gradients(*after), Settings()).passed == passed


def gradients(flow: float | None, norm: float | None) -> Measurement:
    return Measurement(gradient_flow=flow, gradient_norm=norm)


def test_gradients_that_nobody_asked_for_may_be_missing() -> None:
    assert check_gradients(Measurement(), Measurement(), Settings(require_gradients=False)).passed


@pytest.mark.parametrize(
    ("peak", "limit", "passed"),
    [(100, 100, True), (101, 100, False), (None, 100, False), (None, None, True), (10**12, None, True)],
)
def test_memory_has_a_limit_only_if_one_was_asked_for(
    peak: int | None, limit: int | None, passed: bool
) -> None:
    assert check_memory(peak, limit).passed == passed


def test_a_residual_network_may_lose_channels_of_a_stage() -> None:
    anatomy = resnet8()
    assert check_connectivity(anatomy, mask(anatomy, *range(15))).passed
    assert not check_connectivity(anatomy, mask(anatomy, *range(16))).passed


def test_a_layer_that_goes_leaves_no_path_cut_but_what_is_outside_of_it_must_stay() -> None:
    anatomy = layered(chain([4, 4, 4]), ["conv1", "conv2"])
    assert check_members(anatomy).passed
    assert check_connectivity(anatomy, mask(anatomy, anatomy.num_units - 1)).passed
    outside = mask(anatomy, anatomy.num_units - 1, *range(4))
    assert "conv0" in check_connectivity(anatomy, outside).text
