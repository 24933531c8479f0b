from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.narset.summary import LARGEST, RELATIVE_ERROR, Summary, merged, summed


def ranked(values: list[float], share: float) -> float:
    """The least value that at least this share of them is not above."""
    return next(one for one in sorted(values) if sum(v <= one for v in values) >= share * len(values))


NUMBERS = st.lists(st.floats() | st.floats(-1e3, 1e3), max_size=70)
SHARES = (0.0, 0.5, 0.95, 0.99, 1.0)


def finite(values: list[float]) -> list[float]:
    return [value for value in values if abs(value) <= LARGEST]


@given(NUMBERS, NUMBERS, NUMBERS)
def test_summaries_add_up_to_that_of_everything_in_any_order_and_grouping(
    first: list[float], second: list[float], third: list[float]
) -> None:
    one, two, three = map(summed, (first, second, third))
    whole = summed([*first, *second, *third])
    assert merged((one, merged((two, three)))) == whole
    assert merged((merged((one, two)), three)) == whole
    assert merged((three, one, two)) == whole
    assert merged((whole, Summary())) == whole


@given(NUMBERS)
def test_sums_are_exact_and_what_is_not_finite_is_counted_apart(values: list[float]) -> None:
    summary, kept = summed(values), finite(values)
    assert sum(map(Fraction, summary.parts)) == sum(map(Fraction, kept))
    assert sum(map(Fraction, summary.square_parts)) == sum(Fraction(value * value) for value in kept)
    assert summary.total == math.fsum(kept)
    assert (summary.finite, summary.not_finite) == (len(kept), len(values) - len(kept))
    assert (summary.least, summary.most) == ((min(kept), max(kept)) if kept else (None, None))
    assert sum(summary.buckets.values()) == len(kept)


@given(st.lists(st.floats(-LARGEST, LARGEST), min_size=1, max_size=70), st.sampled_from(SHARES))
def test_quantiles_are_within_the_stated_error_of_the_value_of_that_rank(
    values: list[float], share: float
) -> None:
    exact = ranked(values, share)
    found = summed(values).quantile(share)
    assert found is not None
    assert abs(found - exact) <= RELATIVE_ERROR * abs(exact) + 2.0**-1028  # the last: below 2.2e-308


def test_quantiles_stay_within_it_after_a_thousand_merges() -> None:
    drawn = random.Random(0)
    values = [drawn.lognormvariate(-4, 1) for _ in range(32_000)]
    summary = merged(summed(values[start : start + 32]) for start in range(0, len(values), 32))
    assert summary == summed(values)
    for share in SHARES:
        exact = sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
        assert summary.quantile(share) == pytest.approx(exact, rel=RELATIVE_ERROR)


def test_what_cancels_leaves_exactly_what_is_left() -> None:
    assert summed([1e100, 1.0, -1e100]).total == 1.0
    assert merged((summed([1e100]), summed([1.0]), summed([-1e100]))).mean == 1 / 3


def test_of_few_values_the_largest_is_among_the_last_percent() -> None:
    assert summed([1.0, 1.0, 1.0, 1.0, 9.0]).quantile(0.95) == 9.0


def test_without_a_finite_value_nothing_is_known() -> None:
    summary = summed([math.nan, -math.inf, 1e200])
    assert (summary.not_finite, summary.mean, summary.quantile(0.5)) == (3, None, None)
