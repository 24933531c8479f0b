"""How numbers are written."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from esper.report import figures
from esper.report.figures import NOT_MEASURED, MetricScale


@pytest.mark.parametrize(
    ("write", "value", "written"),
    [
        (figures.count, 18_412_345.0, "18.4 M"),
        (figures.count, 999, "999"),
        (figures.count, 1_234.0, "1.23 k"),
        (figures.count, 999_999, "1.00 M"),
        (figures.size, 1_246_000, "1.19 MiB"),
        (figures.size, 12, "12 B"),
        (figures.percent, 0.97345, "97.3 %"),
        (figures.percent, -0.02, "−2.0 %"),
        (figures.milliseconds, 3.14159, "3.14 ms"),
        (figures.seconds, 12.34, "12.3 s"),
        (figures.seconds, 245.0, "4 min 5 s"),
        (figures.seconds, 7_500.0, "2 h 5 min"),
        (figures.speedup, 1.834, "1.83x faster"),
        (figures.speedup, 0.8, "1.25x slower"),
        (figures.plain, 2.4e-7, "2.4e-07"),
        (figures.plain, -0.01234, "−0.0123"),
    ],
)
def test_a_number_is_written_short_and_with_its_unit(
    write: Callable[[float], str], value: float, written: str
) -> None:
    assert write(value) == written


@pytest.mark.parametrize(
    "write",
    [figures.count, figures.percent, figures.milliseconds, figures.seconds, figures.speedup, figures.plain],
)
@pytest.mark.parametrize("value", [None, math.nan])
def test_what_is_not_a_number_was_not_measured(
    write: Callable[[float | None], str], value: float | None
) -> None:
    assert write(value) == NOT_MEASURED


@pytest.mark.parametrize(
    ("before", "after", "written"),
    [
        (100, 43, "−57 %"),
        (100, 95.5, "−4.5 %"),
        (100, 100, "no change"),
        (0, 1, NOT_MEASURED),
        (1, None, NOT_MEASURED),
    ],
)
def test_a_change_is_relative_to_what_was_before(before: float, after: float | None, written: str) -> None:
    assert figures.change(before, after) == written


def test_a_metric_between_zero_and_one_that_should_rise_is_written_as_per_cent() -> None:
    scale = MetricScale([0.9, 0.97, math.nan], higher_is_better=True)
    assert (scale.text(0.9734), scale.tick(0.95), scale.difference(-0.013)) == (
        "97.34 %",
        "95 %",
        "−1.30 points",
    )


@pytest.mark.parametrize(("values", "higher"), [([0.2, 0.3], False), ([0.2, 31.0], True), ([], True)])
def test_any_other_metric_is_written_as_it_is(values: list[float], higher: bool) -> None:
    scale = MetricScale(values, higher)
    assert (scale.text(0.25), scale.difference(0.5), scale.difference(0.0)) == ("0.25", "+0.5", "0")


def test_a_metric_that_was_not_reported_is_not_measured() -> None:
    scale = MetricScale([0.5], higher_is_better=True)
    assert (scale.text(None), scale.difference(math.nan)) == (NOT_MEASURED, NOT_MEASURED)
