"""Fewer points for a picture of a long run: as many as a screen can show, and every extreme of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from esper.report.report import EpochRow, Mark, RunReport

MOST_ROWS, MOST_MARKS = 480, 240
"""Epochs, and moments of one lane, that are drawn at most: one for two pixels of a chart, and for four."""


def thinned(report: RunReport) -> RunReport:
    """The same report with few enough epochs and marks to draw; a short run is as it was."""
    return replace(
        report,
        epochs=_rows(report.epochs, report.metric),
        twin_epochs=_rows(report.twin_epochs, report.metric),
        marks=_marks(report.marks),
    )


def _rows(rows: tuple[EpochRow, ...], metric: str) -> tuple[EpochRow, ...]:
    """The first and the last row, and of every stretch those with the lowest and the highest metric."""
    if len(rows) <= MOST_ROWS:
        return rows
    stretch = math.ceil(2 * len(rows) / (MOST_ROWS - 2))
    chosen = {0, len(rows) - 1}
    for start in range(0, len(rows), stretch):
        places = range(start, min(start + stretch, len(rows)))
        measured = [n for n in places if math.isfinite(rows[n].metrics.get(metric, math.nan))]
        for extreme in (min, max):
            chosen.add(extreme(measured or places, key=lambda n: rows[n].metrics.get(metric, n)))
    return tuple(rows[n] for n in sorted(chosen))


def _marks(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Of the moments of one kind, those that would not cover each other."""
    if len(marks) <= MOST_MARKS:
        return tuple(marks)
    last = max(mark.epoch for mark in marks) + 1
    seen: dict[tuple[str, int], Mark] = {}
    for mark in marks:
        seen.setdefault((mark.kind, mark.epoch * MOST_MARKS // last), mark)
    return tuple(seen.values())
