"""Charts of a run as inline SVG, drawn by hand: no script, no asset, colors from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from esper.nissa.figures import MetricScale, change, count, percent
from esper.nissa.report import EpochRow, Mark, RunReport

WIDTH = 960
LEFT, RIGHT = 72, 118
MARK_NAMES = {
    "mask": "mask applied",
    "cut": "cut",
    "rollback": "rolled back",
    "no_go": "rejected",
    "skipped": "skipped",
}
"""Every kind of mark in the order of its lane, and what the lane is called."""


@dataclass(frozen=True)
class Axis:
    """Maps values from `low`..`high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, ticks: int) -> Axis:
        """An axis that holds all the values and begins and ends at a tick."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        if low == high:
            low, high = low - (abs(low) or 1.0) * 0.05, high + (abs(high) or 1.0) * 0.05
        step = nice_step(high - low, ticks)
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)

    def ticks(self, number: int) -> list[float]:
        """Round values along the axis, about so many."""
        step = nice_step(self.high - self.low, number)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def nice_step(span: float, number: int) -> float:
    """The step out of 1, 2, 5 times a power of ten that divides a span into at most `number` parts."""
    rough = span / max(number, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def quality_chart(report: RunReport) -> str:
    """The metric over the epochs with the uncut twin, a lane for each kind of mark, and the lead over the twin."""
    lanes = [kind for kind in MARK_NAMES if any(mark.kind == kind for mark in report.marks)]
    scale = MetricScale([*report.values.values(), *report.twin_values.values()], report.higher_is_better)
    x = _epoch_axis(report)
    top, bottom = 16.0, 276.0
    y = Axis.around([*report.values.values(), *report.twin_values.values()], bottom, top, 6)
    lane_top = bottom + 26
    lane_bottom = lane_top + 24 * len(lanes)
    lead = report.lead_over_twin
    height = lane_bottom + (132 if lead else 6)
    parts = [
        *_horizontal_grid(y, [(tick, scale.tick(tick)) for tick in y.ticks(6)], x),
        *_epoch_labels(x, bottom + 17),
        *_mark_lines(report.marks, x, top, lane_bottom),
        *_lanes(report.marks, lanes, x, lane_top),
        *_line(report.twin_values, x, y, "twin"),
        *_line(report.values, x, y, "run"),
        *_end_labels(report, scale, x, y),
    ]
    if lead:
        parts += _lead_bars(lead, scale, x, lane_bottom + 40, lane_bottom + 118)
    parts += _hover(report, x, top, height - 6, scale)
    return _svg(height, parts, f"{report.metric} over the epochs, with marks where Esper acted")


def cost_chart(report: RunReport) -> str:
    """FLOPs and parameters over the epochs as shares of what they were at the start."""
    x = _epoch_axis(report)
    top, bottom = 16.0, 240.0
    y = Axis(0.0, 1.0, bottom, top)
    flops = {row.epoch: row.flops / report.flops_before for row in report.epochs if report.flops_before}
    sizes = {
        row.epoch: row.parameters / report.parameters_before
        for row in report.epochs
        if report.parameters_before
    }
    ends = [
        (series[max(series)], f"{name} {percent(series[max(series)], 0)}", style)
        for series, name, style in ((flops, "FLOPs", "flops"), (sizes, "parameters", "sizes"))
        if series
    ]
    parts = [
        *_horizontal_grid(y, [(tick, percent(tick, 0)) for tick in (0.0, 0.25, 0.5, 0.75, 1.0)], x),
        *_epoch_labels(x, bottom + 17),
        *_mark_lines([mark for mark in report.marks if mark.kind == "cut"], x, top, bottom),
        *_line(sizes, x, y, "sizes", stepped=True),
        *_line(flops, x, y, "flops", stepped=True),
        *_spread_labels(ends, x, y),
        *_cost_hover(report, x, top, bottom),
    ]
    return _svg(bottom + 26, parts, "FLOPs and parameters over the epochs, as shares of the start")


def _svg(height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _epoch_axis(report: RunReport) -> Axis:
    epochs = [row.epoch for row in (*report.epochs, *report.twin_epochs)] + [
        mark.epoch for mark in report.marks
    ]
    low, high = min(epochs), max(epochs)
    return Axis(low - (low == high), high + (low == high), LEFT + 14, WIDTH - RIGHT - 14)


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(text)}</text>'


def _horizontal_grid(y: Axis, ticks: Sequence[tuple[float, str]], x: Axis) -> list[str]:
    parts = []
    for value, label in ticks:
        place = f"{y(value):.1f}"
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place}" y2="{place}" class="grid"/>')
        parts.append(_text(LEFT - 10, y(value) + 4, label, "tick end"))
    return parts


def _epoch_labels(x: Axis, y: float) -> list[str]:
    ticks = [tick for tick in x.ticks(12) if tick == int(tick)]
    return [
        *(_text(x(tick), y, f"{tick:.0f}", "tick middle") for tick in ticks),
        _text(WIDTH - RIGHT + 10, y, "epoch", "tick"),
    ]


def _line(values: Mapping[int, float], x: Axis, y: Axis, style: str, stepped: bool = False) -> list[str]:
    """One path; a value that is missing or not finite leaves a gap, and a lone point is drawn as a dot."""
    points = {epoch: value for epoch, value in sorted(values.items()) if math.isfinite(value)}
    path, last = "", None
    for epoch, value in points.items():
        place = f"{x(epoch):.1f} {y(value):.1f}"
        joined = last is not None and not any(last < other < epoch for other in values)
        turn = f"H{x(epoch):.1f}" if joined and stepped else ""
        path += f"{turn}L{place}" if joined else f"M{place}"
        last = epoch
    dots = [
        f'<circle cx="{x(epoch):.1f}" cy="{y(value):.1f}" r="3" class="dot {style}"/>'
        for epoch, value in points.items()
    ]
    return ([f'<path d="{path}" class="line {style}"/>'] if path else []) + ([] if stepped else dots)


def _end_labels(report: RunReport, scale: MetricScale, x: Axis, y: Axis) -> list[str]:
    ends = []
    for values, name, style in (
        (report.values, "with Esper", "run"),
        (report.twin_values, "uncut twin", "twin"),
    ):
        finite = {epoch: value for epoch, value in values.items() if math.isfinite(value)}
        if finite:
            value = finite[max(finite)]
            ends.append((value, f"{name}\n{scale.text(value)}", style))
    return _spread_labels(ends, x, y)


def _spread_labels(ends: Sequence[tuple[float, str, str]], x: Axis, y: Axis) -> list[str]:
    """Labels at the right end of lines, pushed apart so that none covers another."""
    ordered = sorted(ends, key=lambda end: y(end[0]))
    heights = [15.0 * len(text.split("\n")) for _, text, _ in ordered]
    places = [y(value) - height / 2 for (value, _, _), height in zip(ordered, heights, strict=True)]
    for first, second in pairwise(range(len(places))):
        missing = places[first] + heights[first] + 5 - places[second]
        if missing > 0:
            places[first] -= missing / 2
            places[second] += missing / 2
    parts = []
    for (_, text, style), place in zip(ordered, places, strict=True):
        for number, line in enumerate(text.split("\n")):
            shape = "label strong" if number == 0 else "label"
            parts.append(_text(WIDTH - RIGHT + 22, place + 12 + 15 * number, line, shape))
        middle = place + 8
        parts.append(f'<circle cx="{WIDTH - RIGHT + 13}" cy="{middle:.1f}" r="4" class="key {style}"/>')
    return parts


def _mark_lines(marks: Sequence[Mark], x: Axis, top: float, bottom: float) -> list[str]:
    drawn = [mark for mark in marks if mark.kind in {"mask", "cut", "rollback"}]
    return [
        f'<line x1="{x(mark.epoch):.1f}" x2="{x(mark.epoch):.1f}" y1="{top}" y2="{bottom}" class="at {mark.kind}"/>'
        for mark in drawn
    ]


def _lanes(marks: Sequence[Mark], lanes: Sequence[str], x: Axis, top: float) -> list[str]:
    parts = []
    for number, kind in enumerate(lanes):
        middle = top + 24 * number + 12
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{middle}" y2="{middle}" class="lane"/>')
        parts.append(_text(WIDTH - RIGHT + 10, middle + 4, MARK_NAMES[kind], "label"))
        parts += [mark_symbol(mark.kind, x(mark.epoch), middle) for mark in marks if mark.kind == kind]
    return parts


def mark_symbol(kind: str, x: float, y: float) -> str:
    """The shape of a mark: each kind has its own, so that color is not needed to tell them apart."""
    shapes = {
        "mask": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>',
        "cut": f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"/>',
        "rollback": f'<path d="M{x + 5:.1f} {y - 6:.1f}v12l-11 -6z"/>',
        "no_go": f'<path d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10"/>',
        "skipped": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
    }
    return f'<g class="mark {escape(kind)}">{shapes[kind]}</g>'


def _lead_bars(
    lead: Mapping[int, float], scale: MetricScale, x: Axis, top: float, bottom: float
) -> list[str]:
    y = Axis.around([0.0, *lead.values()], bottom, top, 3)
    width = max(3.0, min(22.0, 0.6 * (x.end - x.start) / max(len(lead), 1)))
    parts = [
        _text(LEFT, top - 14, "difference to the uncut twin at each epoch (below zero is worse)", "label")
    ]
    parts += _horizontal_grid(
        y, [(tick, scale.difference(tick).removesuffix(" points")) for tick in y.ticks(3)], x
    )
    for epoch, value in lead.items():
        if math.isfinite(value):
            high, low = min(y(value), y(0.0)), max(y(value), y(0.0))
            style = "worse" if value < 0 else "better"
            parts.append(
                f'<rect x="{x(epoch) - width / 2:.1f}" width="{width:.1f}" y="{high:.1f}" '
                f'height="{max(low - high, 0.8):.1f}" rx="1.5" class="bar {style}"/>'
            )
    zero = f"{y(0.0):.1f}"
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{zero}" y2="{zero}" class="zero"/>')
    worst = min((value for value in lead.values() if math.isfinite(value)), default=None)
    parts.append(_text(WIDTH - RIGHT + 10, (top + bottom) / 2 - 4, "at worst", "label"))
    parts.append(_text(WIDTH - RIGHT + 10, (top + bottom) / 2 + 11, scale.difference(worst), "label strong"))
    return parts


def _columns(rows: Mapping[int, str], x: Axis, top: float, bottom: float) -> list[str]:
    """Invisible columns that light up under the pointer and carry a tooltip."""
    step = (x.end - x.start) / max(x.high - x.low, 1.0)
    return [
        f'<rect x="{x(epoch) - step / 2:.1f}" width="{step:.1f}" y="{top}" height="{bottom - top:.1f}" class="hover">'
        f"<title>{escape(text)}</title></rect>"
        for epoch, text in rows.items()
    ]


def _hover(report: RunReport, x: Axis, top: float, bottom: float, scale: MetricScale) -> list[str]:
    twin = report.twin_values
    texts = {}
    for row in report.epochs:
        lines = [f"epoch {row.epoch}, step {row.step}"]
        lines += [
            f"{name}: {scale.text(v) if name == report.metric else f'{v:.4g}'}"
            for name, v in row.metrics.items()
        ]
        if row.epoch in twin:
            lines.append(f"uncut twin: {scale.text(twin[row.epoch])}")
        lines += [_cost_line(report, row), f"masked units: {row.masked_units}"]
        lines += [f"{MARK_NAMES[m.kind]}: {m.text}" for m in report.marks if m.epoch == row.epoch]
        texts[row.epoch] = "\n".join(lines)
    return _columns(texts, x, top, bottom)


def _cost_line(report: RunReport, row: EpochRow) -> str:
    return f"FLOPs: {count(row.flops)} ({change(report.flops_before, row.flops)}), parameters: {count(row.parameters)}"


def _cost_hover(report: RunReport, x: Axis, top: float, bottom: float) -> list[str]:
    texts = {row.epoch: f"epoch {row.epoch}\n{_cost_line(report, row)}" for row in report.epochs}
    return _columns(texts, x, top, bottom)
