"""Trainings that are compared: each by what it has cost, what came out, and whether that can be luck."""

from __future__ import annotations

from html import escape

from scipy.special import bdtr

from esper.report import figures
from esper.report.figures import MetricScale
from esper.report.plot import Axis, EndLabel, Plot, text
from esper.report.report import ArmRow, RunReport

_UNIT = 1e6
"""FLOPs of a step along the axis."""
_LETTER, _DOT, _LEAST_MARGIN = 9.0, 30.0, 230.0
"""Width of a letter of a name beside the chart, of what stands before it, and the least room for both."""
_SURE, _LEAST = 0.05, 0.001
"""Chances: below which a difference is none of luck, and the smallest one that is told."""


def arm_cells(report: RunReport) -> list[tuple[str, ...]]:
    """For each arm its name, epochs, training FLOPs, FLOPs, parameters and the metric, for people."""
    scale = _scale(report)
    return [
        (
            arm.name,
            str(len(arm.spent)),
            figures.count(arm.spent[-1]),
            figures.count(arm.flops),
            figures.count(arm.parameters),
            scale.text(arm.values[-1]),
        )
        for arm in report.arms
    ]


def arms_table(report: RunReport) -> str:
    """The same as a table in HTML."""
    columns = ("", "Epochs", "Training FLOPs", "FLOPs", "Parameters", report.metric.capitalize())
    head = "".join(f'<th class="{"number" if name else ""}">{escape(name)}</th>' for name in columns)
    body = ""
    for name, *numbers in arm_cells(report):
        cells = "".join(f'<td class="number">{escape(number)}</td>' for number in numbers)
        body += f'<tr><td class="name">{escape(name)}</td>{cells}</tr>'
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def verdicts(report: RunReport) -> list[str]:
    """A sentence for each arm that the run is compared with: which of them is better, if one is."""
    if not report.arms:
        return []
    run, *others = report.arms
    lines = [_verdict(report, run, other) for other in others]
    return [*lines, "There was one training of each: another seed can end otherwise."]


def luck(wins: int, losses: int) -> float:
    """Chance that coin tosses split at least as unevenly: the exact sign test, two-sided."""
    tail = float(bdtr(min(wins, losses), wins + losses, 0.5)) if wins + losses else 1.0
    return min(1.0, 2.0 * tail)


def _verdict(report: RunReport, run: ArmRow, other: ArmRow) -> str:
    gap = _scale(report).difference(run.values[-1] - other.values[-1])
    chance = luck(other.wins, other.losses)
    word = "A tie with"
    if chance < _SURE:
        word = "Better than" if other.wins > other.losses else "WORSE than"
    likely = figures.percent(chance) if chance >= _LEAST else f"less than {figures.percent(_LEAST)}"
    return (
        f"{word} {other.name}: {gap}. {other.wins} test samples only {run.name} does right, {other.losses} "
        f"only the other; that luck alone splits them so unevenly has a chance of {likely}."
    )


def arms_chart(report: RunReport) -> str:
    """The metric of every arm over the FLOPs that its training has taken."""
    curves = [
        {round(spent / _UNIT): value for spent, value in zip(arm.spent, arm.values, strict=True)}
        for arm in report.arms
    ]
    scale = _scale(report)
    margin = max(_LEAST_MARGIN, _DOT + _LETTER * max(len(arm.name) for arm in report.arms))
    plot = Plot.over([0, *(place for curve in curves for place in curve)], 960, left=72, margin=margin)
    y = Axis.around([value for curve in curves for value in curve.values()], 300.0, 16.0, 6)
    ends = [
        EndLabel(arm.values[-1], (arm.name, scale.text(arm.values[-1])), f"run-{number}")
        for number, arm in enumerate(report.arms)
    ]
    parts = [
        *plot.grid(y, [(tick, scale.tick(tick)) for tick in y.ticks(6)]),
        *(
            text(plot.x(tick), y.start + 17, figures.count(tick * _UNIT), "tick middle")
            for tick in plot.x.ticks(8)
        ),
        text(plot.right + 10, y.start + 17, "training FLOPs", "tick"),
        *(plot.line(curve, y, f"run-{number}") for number, curve in enumerate(curves)),
        *plot.end_labels(ends, y),
    ]
    return plot.svg(y.start + 26, parts, f"{report.metric} over the FLOPs of training")


def _scale(report: RunReport) -> MetricScale:
    return MetricScale([value for arm in report.arms for value in arm.values], report.higher_is_better)
