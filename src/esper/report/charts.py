"""The two charts of a run: the metric with everything that Esper did, and what the network cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from esper.nissa import MarkKind
from esper.report.figures import NOT_MEASURED, MetricScale, change, count, percent
from esper.report.plot import Axis, EndLabel, Plot, text
from esper.report.report import EpochRow, Mark, RunReport

MARK_NAMES: Mapping[MarkKind, str] = {
    "mask": "mask applied",
    "judged": "judged at the end",
    "cut": "cut",
    "rollback": "rolled back",
    "no_go": "rejected",
    "skipped": "skipped",
    "germinated": "seed germinated",
    "fossilized": "seed kept",
    "culled": "seed culled",
}
"""Every kind of mark in the order of its lane, and what the lane is called."""

_CHANGES: frozenset[MarkKind] = frozenset({"mask", "cut", "rollback", "fossilized"})
_TOP, _MOST_DOTS = 16.0, 100


def quality_chart(report: RunReport) -> str:
    """The metric beside the uncut twin's, a lane for each kind of mark, and the lead over the twin."""
    run, twin, lead = report.values, report.twin_values, report.lead_over_twin
    scale = MetricScale.of(report)
    plot = Plot.over(_epochs(report), 960, left=72, margin=118)
    y = Axis.around([*run.values(), *twin.values()], 276.0, _TOP, 6)
    lanes = [kind for kind in MARK_NAMES if any(mark.kind == kind for mark in report.marks)]
    lane_top = y.start + 26
    lane_bottom = lane_top + 24 * len(lanes)
    height = lane_bottom + (132 if lead else 6)
    ends = [_end(run, "with Esper", "run", scale), _end(twin, "uncut twin", "twin", scale)]
    is_measured = any(map(math.isfinite, (*run.values(), *twin.values())))
    middle = text((plot.left + plot.right) / 2, (_TOP + y.start) / 2, NOT_MEASURED, "tick middle")
    parts = [
        *(plot.grid(y, [(tick, scale.tick(tick)) for tick in y.ticks(6)]) if is_measured else [middle]),
        *_change_lines(plot, report.marks, _CHANGES, lane_bottom),
        *plot.epoch_labels(y.start + 17, 12, report.unit),
        *_lanes(plot, report.marks, lanes, lane_top),
        plot.line(twin, y, "twin"),
        *(plot.dots(twin, y, "twin") if len(twin) <= _MOST_DOTS else ()),
        plot.line(run, y, "run"),
        *(plot.dots(run, y, "run") if len(run) <= _MOST_DOTS else ()),
        *plot.end_labels([end for end in ends if end], y),
        *(_lead(plot, report, scale, lane_bottom + 40) if lead else ()),
        *plot.tooltips({row.epoch: _tooltip(report, row, scale) for row in report.epochs}, _TOP, height - 6),
    ]
    return plot.svg(height, parts, f"{report.metric} over the {report.unit}s, with marks where Esper acted")


def cost_chart(report: RunReport) -> str:
    """FLOPs and parameters over the epochs as shares of what they were at the start."""
    plot = Plot.over(_epochs(report), 490, left=48, margin=112)
    flops = {row.epoch: row.flops / report.flops_before for row in report.epochs if report.flops_before}
    sizes = {row.epoch: row.parameters / report.parameters_before for row in report.epochs if row.parameters}
    most = max([1.0, *flops.values(), *sizes.values()])
    y = Axis(0.0, most, 300.0, _TOP)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if most == 1.0 else y.ticks(5)
    ends = [
        EndLabel(series[max(series)], (name, percent(series[max(series)], 0)), style)
        for series, name, style in ((flops, "FLOPs", "flops"), (sizes, "parameters", "sizes"))
        if series
    ]
    parts = [
        *plot.grid(y, [(tick, percent(tick, 0)) for tick in ticks]),
        *_change_lines(plot, report.marks, frozenset({"cut", "fossilized"}), y.start),
        *plot.epoch_labels(y.start + 17, 8, report.unit),
        plot.line(sizes, y, "sizes", stepped=True),
        plot.line(flops, y, "flops", stepped=True),
        *plot.end_labels(ends, y),
        *plot.tooltips(
            {r.epoch: f"{report.unit} {r.epoch}\n{_cost(report, r)}" for r in report.epochs}, _TOP, y.start
        ),
    ]
    return plot.svg(
        y.start + 26, parts, f"FLOPs and parameters over the {report.unit}s, as shares of the start"
    )


def mark_symbol(kind: MarkKind, x: float, y: float) -> str:
    """The shape of a mark: each kind has its own, so that color is not needed to tell them apart."""
    shapes: Mapping[MarkKind, str] = {
        "mask": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>',
        "judged": f'<path d="M{x - 6:.1f} {y:.1f}l4 5l8 -10"/>',
        "cut": f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"/>',
        "rollback": f'<path d="M{x + 5:.1f} {y - 6:.1f}v12l-11 -6z"/>',
        "no_go": f'<path d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"/>',
        "skipped": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        "germinated": f'<path d="M{x:.1f} {y + 6:.1f}v-11m-5 5l5 -5l5 5"/>',
        "fossilized": f'<path d="M{x - 5:.1f} {y - 5:.1f}h10v10h-10z"/>',
        "culled": f'<path d="M{x - 6:.1f} {y:.1f}h12"/>',
    }
    return f'<g class="mark {kind}">{shapes[kind]}</g>'


def _epochs(report: RunReport) -> Iterable[int]:
    return [row.epoch for row in (*report.epochs, *report.twin_epochs)] + [
        mark.epoch for mark in report.marks
    ]


def _end(values: Mapping[int, float], name: str, style: str, scale: MetricScale) -> EndLabel | None:
    finite = [epoch for epoch, value in values.items() if math.isfinite(value)]
    if not finite:
        return None
    last = values[max(finite)]
    return EndLabel(last, (name, scale.text(last)), style)


def _change_lines(plot: Plot, marks: Iterable[Mark], kinds: frozenset[MarkKind], bottom: float) -> list[str]:
    places = {(f"{plot.x(mark.epoch):.1f}", mark.kind) for mark in marks if mark.kind in kinds}
    return [
        f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}" class="at {kind}"/>' for x, kind in sorted(places)
    ]


def _lanes(plot: Plot, marks: Sequence[Mark], lanes: Sequence[MarkKind], top: float) -> list[str]:
    parts = []
    for number, kind in enumerate(lanes):
        middle = top + 24 * number + 12
        parts.append(
            plot.across(middle, "lane") + text(plot.right + 10, middle + 4, MARK_NAMES[kind], "label")
        )
        parts += [mark_symbol(kind, plot.x(mark.epoch), middle) for mark in marks if mark.kind == kind]
    return parts


def _lead(plot: Plot, report: RunReport, scale: MetricScale, top: float) -> list[str]:
    lead = report.lead_over_twin
    y = Axis.around([0.0, *lead.values()], top + 78, top, 3)
    return [
        text(
            plot.left,
            top - 14,
            f"difference to the uncut twin at each {report.unit} (below zero is worse)",
            "label",
        ),
        *plot.grid(y, [(tick, scale.difference(tick).removesuffix(" points")) for tick in y.ticks(3)]),
        *plot.bars(lead, y),
        text(plot.right + 10, top + 35, "at worst", "label"),
        text(plot.right + 10, top + 50, scale.difference(report.worst_lead), "label strong"),
    ]


def _tooltip(report: RunReport, row: EpochRow, scale: MetricScale) -> str:
    metrics = [
        f"{name}: {scale.text(value) if name == report.metric else f'{value:.4g}'}"
        for name, value in row.metrics.items()
    ]
    twin = report.twin_values
    beside = [f"uncut twin: {scale.text(twin[row.epoch])}"] if row.epoch in twin else []
    acts = [f"{MARK_NAMES[mark.kind]}: {mark.text}" for mark in report.marks if mark.epoch == row.epoch]
    cost = [_cost(report, row), f"masked units: {row.masked_units}"]
    return "\n".join([f"{report.unit} {row.epoch}, step {row.step}", *metrics, *beside, *cost, *acts])


def _cost(report: RunReport, row: EpochRow) -> str:
    saved = change(report.flops_before, row.flops)
    return f"FLOPs: {count(row.flops)} ({saved}), parameters: {count(row.parameters)}"
