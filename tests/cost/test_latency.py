"""Latency by a table: what it says at and between the widths that were timed, and what is planned by it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.arrays import BoolArray
from esper.cost.latency import Axis, LatencyModel, LatencyTable, TimedOperator
from esper.cost.origin import Origin
from esper.emrakul import Allowance, Settings
from esper.emrakul.plan import Situation, make_plan, shrink
from esper.errors import ConfigError, EvidenceError
from esper.leyline import Level, decode, encode
from tests.emrakul.networks import chain, measured

ANATOMY = chain([32, 16])
HALF = Settings.model_validate({"target": {"latency": 0.5}, "floors": {"min_channels": 4}})
FIXED, REST = 0.5, 1.0


def table(*, is_bumpy: bool = False) -> LatencyTable:
    """Two of three convolutions timed: the first takes 2 ms in stairs of 16, the second grows evenly to 4."""
    stairs = ((1.0,), (1.0,), (2.0,)) if not is_bumpy else ((1.2,), (1.0,), (2.0,))
    second = tuple(tuple(4.0 * o * i / (16 * 32) for i in (8, 16, 32)) for o in (8, 16))
    return LatencyTable(
        operators=(
            TimedOperator("conv0", (Axis(0.0, {"conv0": 1.0}), Axis(3.0, {})), ((8, 16, 32), (3,)), stairs),
            TimedOperator(
                "conv1",
                (Axis(0.0, {"conv1": 1.0}), Axis(0.0, {"conv0": 1.0})),
                ((8, 16), (8, 16, 32)),
                second,
            ),
        ),
        fixed_milliseconds=FIXED,
        rest_milliseconds=REST,
        rest_cost=2.0 * 9 * 16 * 10 * 16,  # the last convolution; the chain counts no elements
        element_flops=1000.0,
        batch=64,
        device="cpu",
    )


def keeping(first: int, second: int) -> BoolArray:
    keep = np.zeros(ANATOMY.num_units, np.bool_)
    keep[:first] = True
    keep[32 : 32 + second] = True
    return keep


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (32, 16, FIXED + 2 + 4 + REST),
        (16, 16, FIXED + 1 + 2 + REST),
        (24, 16, FIXED + 1.5 + 3 + REST),
        (32, 8, FIXED + 2 + 2 + REST / 2),
        (4, 16, FIXED + 0.5 + 0.5 + REST),  # below what was timed: in proportion
    ],
)
def test_times_at_and_between_the_widths_that_were_timed(first: int, second: int, expected: float) -> None:
    assert LatencyModel(ANATOMY, table()).total(keeping(first, second)) == pytest.approx(expected)


def test_the_slope_is_what_the_next_narrower_width_would_save() -> None:
    model = LatencyModel(ANATOMY, table())
    slope = model.gradient(keeping(32, 16))
    assert slope[0] == pytest.approx(1 / 16 + 2 / 16)  # conv0 makes it, conv1 reads it
    assert slope[32] == pytest.approx(2 / 8 + REST / 16)
    in_the_stairs = model.gradient(keeping(16, 16))
    assert in_the_stairs[0] == pytest.approx(0 + 1 / 8)


@given(st.integers(1, 32), st.integers(1, 16), st.integers(0, 31), st.integers(0, 15))
def test_a_narrower_network_is_never_said_to_be_slower(
    first: int, second: int, less: int, fewer: int
) -> None:
    model = LatencyModel(ANATOMY, table(is_bumpy=True))
    narrow = model.total(keeping(max(first - less, 1), max(second - fewer, 1)))
    assert narrow <= model.total(keeping(first, second)) + 1e-12


def test_a_table_outlives_a_cut_and_json() -> None:
    again = decode(LatencyTable, json.loads(json.dumps(encode(table()))))
    assert again == table()
    smaller = chain([16, 16])
    whole = np.ones(smaller.num_units, np.bool_)
    assert LatencyModel(smaller, again).total(whole) == pytest.approx(FIXED + 1 + 2 + REST)
    origin = Origin.of(ANATOMY, table())
    restored = decode(Origin, json.loads(json.dumps(encode(origin))))
    assert restored == origin
    assert restored.removed_fraction(smaller, whole, "latency") == pytest.approx(1 - 4.5 / 7.5)


def test_a_table_of_another_network_is_refused() -> None:
    odd = replace(table().operators[0], axes=(Axis(0.0, {"stem": 1.0}), Axis(3.0, {})))
    with pytest.raises(EvidenceError, match="knows stem, which this network does not have"):
        LatencyModel(ANATOMY, replace(table(), operators=(odd,)))
    with pytest.raises(EvidenceError, match="conv1"):
        LatencyModel(
            chain([32]), replace(table(), operators=(replace(table().operators[1], axes=odd_axes()),))
        )


def odd_axes() -> tuple[Axis, Axis]:
    return Axis(16.0, {}), Axis(0.0, {"conv7": 1.0, "conv1": 1.0})


def test_without_a_measurement_nothing_is_cut_by_latency() -> None:
    with pytest.raises(ConfigError, match="Nobody has measured"):
        Origin.of(ANATOMY).model(ANATOMY, "latency")


@pytest.mark.parametrize("round_to", [1, 8])
def test_a_plan_saves_the_time_that_it_should(round_to: int) -> None:
    settings = HALF.model_copy(update={"plan": HALF.plan.model_copy(update={"round_to": round_to})})
    evidence = replace(measured(ANATOMY), confidence=np.ones(ANATOMY.num_units))
    allowed = Allowance("latency", 0.4, 0.6, (Level.CHANNEL,), "ramp", "a test")
    origin = Origin.of(ANATOMY, table())
    situation = Situation.whole(ANATOMY, origin)
    plan = make_plan(situation, evidence, allowed, settings)
    assert 0.4 <= plan.removed_after <= 0.6
    assert plan.removed_after == pytest.approx(origin.removed_fraction(ANATOMY, plan.keep, "latency"))
    assert plan.saved_cost.sum() == pytest.approx(plan.removed_after * 7.5)
    small = shrink(plan, situation)
    assert small.removed_after == pytest.approx(origin.removed_fraction(ANATOMY, small.keep, "latency"))


def test_units_that_save_no_time_stay() -> None:
    """Of equal losses, those go whose absence is felt."""
    first_alone = replace(table(), operators=(table().operators[0],), rest_milliseconds=0.0)
    equal = np.full(ANATOMY.num_units, 0.01)
    sure = np.ones(ANATOMY.num_units)
    evidence = replace(measured(ANATOMY), loss_increase=equal, confidence=sure)
    allowed = Allowance("latency", 0.3, 0.45, (Level.CHANNEL,), "ramp", "a test")
    origin = Origin.of(ANATOMY, first_alone)
    plan = make_plan(Situation.whole(ANATOMY, origin), evidence, allowed, HALF)
    assert (plan.units < 32).all()
    assert plan.removed_after >= 0.3
