"""Axes and lines."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.report.plot import Axis, EndLabel, Plot, nice_step

finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))


@given(st.lists(finite, min_size=1, max_size=30), st.integers(2, 12))
def test_an_axis_holds_every_value_and_has_at_most_the_ticks_that_were_asked_for(
    values: list[float], number: int
) -> None:
    axis = Axis.around(values, 100.0, 0.0, number)
    margin = (axis.high - axis.low) * 1e-6
    assert axis.low - margin <= min(values)
    assert max(values) <= axis.high + margin
    assert all(-0.01 <= axis(value) <= 100.01 for value in values)
    assert 1 <= len(axis.ticks(number)) <= number + 2


@pytest.mark.parametrize(
    ("span", "number", "step"), [(1.0, 5, 0.2), (10.0, 6, 2.0), (0.33, 6, 0.1), (12.0, 12, 1.0)]
)
def test_a_step_is_one_two_or_five_times_a_power_of_ten(span: float, number: int, step: float) -> None:
    assert nice_step(span, number) == pytest.approx(step)


def test_an_axis_without_a_finite_value_still_maps() -> None:
    assert math.isfinite(Axis.around([math.nan], 100.0, 0.0, 5)(0.0))


def test_a_value_that_is_not_finite_leaves_a_gap_in_the_line() -> None:
    plot = Plot.over([1, 5], 400, 40, 40)
    drawn = plot.line({1: 0.1, 2: 0.2, 3: math.nan, 4: 0.4, 5: 0.5}, Axis(0.0, 1.0, 100.0, 0.0), "run")
    assert re.sub(r"[\d. ]", "", drawn.split('"')[1]) == "MLML"


def test_a_line_without_values_draws_nothing() -> None:
    assert Plot.over([1], 400, 40, 40).line({1: math.inf}, Axis(0.0, 1.0, 100.0, 0.0), "run") == ""


def test_labels_at_the_same_height_are_pushed_apart() -> None:
    labels = [EndLabel(0.5, ("with Esper", "97 %"), "run"), EndLabel(0.5, ("uncut twin", "97 %"), "twin")]
    drawn = "".join(Plot.over([1, 2], 400, 40, 40).end_labels(labels, Axis(0.0, 1.0, 100.0, 0.0)))
    heights = sorted(float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)"', drawn))
    assert all(below - above >= 14.9 for above, below in pairwise(heights))
