"""Several runs in one picture: what each of them was judged by, and what each of them cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from esper.report.charts import mark_symbol
from esper.report.figures import MetricScale, percent
from esper.report.plot import Axis, EndLabel, Plot, text
from esper.report.report import Mark, RunReport
from esper.report.thinning import thinned

MOST_RUNS = 8
"""Lines that can be told apart in one chart."""
_TOP, _LANE, _DRAWN = 16.0, 26.0, frozenset({"mask", "cut", "rollback", "fossilized"})


def quality_comparison(reports: Sequence[RunReport]) -> str:
    """The deciding metric of every run, and a lane for each with what changed its network."""
    drawn = [thinned(report) for report in reports]
    series = [report.values for report in drawn]
    plot = _plot(drawn, 960)
    scale = MetricScale(
        [value for values in series for value in values.values()],
        all(report.higher_is_better for report in drawn),
    )
    y = Axis.around([value for values in series for value in values.values()], 300.0, _TOP, 6)
    lane_top = y.start + 26
    ends = [
        EndLabel(values[max(values)], (report.title, scale.text(values[max(values)])), f"run-{number}")
        for number, (report, values) in enumerate(zip(drawn, map(_finite, series), strict=True))
        if values
    ]
    parts = [
        *plot.grid(y, [(tick, scale.tick(tick)) for tick in y.ticks(6)]),
        *plot.epoch_labels(y.start + 17, 12, _unit(drawn)),
        *(plot.line(values, y, f"run-{number}") for number, values in enumerate(series)),
        *plot.end_labels(ends, y),
        *(
            part
            for number, report in enumerate(drawn)
            for part in _lane(plot, report.title, report.marks, lane_top + _LANE * number)
        ),
    ]
    metrics = ", ".join(dict.fromkeys(report.metric for report in drawn))
    return plot.svg(lane_top + _LANE * len(drawn) + 6, parts, f"{metrics} of {len(drawn)} runs")


def cost_comparison(reports: Sequence[RunReport]) -> str:
    """FLOPs of every run over its epochs, as a share of what they were at its start."""
    drawn = [thinned(report) for report in reports]
    series = [
        {row.epoch: row.flops / report.flops_before for row in report.epochs if report.flops_before}
        for report in drawn
    ]
    plot = _plot(drawn, 960)
    y = Axis(0.0, max([1.0, *(value for values in series for value in values.values())]), 240.0, _TOP)
    ends = [
        EndLabel(values[max(values)], (report.title, percent(values[max(values)], 0)), f"run-{number}")
        for number, (report, values) in enumerate(zip(drawn, series, strict=True))
        if values
    ]
    parts = [
        *plot.grid(y, [(tick, percent(tick, 0)) for tick in y.ticks(5)]),
        *plot.epoch_labels(y.start + 17, 12, _unit(drawn)),
        *(plot.line(values, y, f"run-{number}", stepped=True) for number, values in enumerate(series)),
        *plot.end_labels(ends, y),
    ]
    return plot.svg(y.start + 26, parts, f"FLOPs of {len(drawn)} runs, as shares of their start")


def _plot(reports: Sequence[RunReport], width: int) -> Plot:
    epochs = [row.epoch for report in reports for row in report.epochs]
    return Plot.over(epochs or [0], width, left=72, margin=190)


def _finite(values: Mapping[int, float]) -> dict[int, float]:
    return {epoch: value for epoch, value in values.items() if math.isfinite(value)}


def _unit(reports: Sequence[RunReport]) -> str:
    return "/".join(dict.fromkeys(report.unit for report in reports))


def _lane(plot: Plot, title: str, marks: Sequence[Mark], top: float) -> list[str]:
    middle = top + _LANE / 2
    return [
        plot.across(middle, "lane") + text(plot.right + 10, middle + 4, title, "label"),
        *(mark_symbol(mark.kind, plot.x(mark.epoch), middle) for mark in marks if mark.kind in _DRAWN),
    ]
