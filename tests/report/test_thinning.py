"""A long run is drawn with few points, and still shows what was extreme."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise

from esper.report.html import render_html
from esper.report.report import EpochRow, Mark, RunReport
from esper.report.thinning import MOST_MARKS, MOST_ROWS, thinned
from tests.report.example import full_report


def long_report(epochs: int) -> RunReport:
    values = [math.nan if n % 7 == 0 else math.sin(n / 50) for n in range(epochs)]
    values[epochs // 3 + 1], values[epochs // 2] = 5.0, -5.0
    rows = tuple(
        EpochRow(n + 1, n + 1, {} if n % 11 == 0 else {"accuracy": value}, 1e6, 1000, 0, 1.0)
        for n, value in enumerate(values)
    )
    marks = tuple(Mark(n + 1, "mask" if n % 2 else "cut", "") for n in range(epochs))
    return dataclasses.replace(full_report(), epochs=rows, marks=marks, twin_epochs=())


def test_what_a_screen_can_show_is_left_as_it_is() -> None:
    report = full_report()
    assert thinned(report) == report


def test_extremes_ends_and_every_stretch_of_a_long_run_stay() -> None:
    report = long_report(10_000)
    drawn = thinned(report)
    epochs = [row.epoch for row in drawn.epochs]
    assert len(epochs) <= MOST_ROWS
    assert epochs == sorted(epochs)
    assert {1, 10_000} <= set(epochs)
    assert max(b - a for a, b in pairwise(epochs)) < 100
    values = [value for value in drawn.values.values() if math.isfinite(value)]
    assert (max(values), min(values)) == (5.0, -5.0)
    kinds = [mark.kind for mark in drawn.marks]
    assert kinds.count("mask") <= MOST_MARKS
    assert kinds.count("cut") <= MOST_MARKS


def test_a_run_without_any_metric_is_thinned_too() -> None:
    rows = tuple(EpochRow(n, n, {}, 1e6, 1000, 0, 1.0) for n in range(1, 5001))
    drawn = thinned(dataclasses.replace(full_report(), epochs=rows))
    assert 100 < len(drawn.epochs) <= MOST_ROWS


def test_the_page_of_a_long_run_stays_small_and_says_what_it_leaves_out() -> None:
    html = render_html(long_report(10_000))
    assert len(html) < 1_000_000
    assert "of 10000 epochs are drawn, with every extreme" in html
