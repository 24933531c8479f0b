"""The pieces that pages are made of; cells of tables are HTML already, titles are text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from urllib.parse import urlencode

from blake3 import blake3

from esper.report import RunReport, figures
from esper.runs import Story

COUNTS = ("FLOPs>", "Parameters>", "Masked units>", "Time>")
AGAIN = '<button type="button" class="copy" data-again>Read again</button>'
"""For what is read once, when somebody comes near it, while the run may go on."""
_TONES = {
    "running": "good",
    "finished": "good",
    "accepted": "good",
    "go": "good",
    "yes": "good",
    "no": "bad",
    "healthy": "good",
    "stopped": "warn",
    "skipped": "warn",
    "degraded": "warn",
    "rejected": "bad",
    "failed": "bad",
    "failing": "bad",
    "no_go": "bad",
}


def section(title: str, body: str, lead: str = "") -> str:
    """A card with a heading; without a title only the card."""
    head = f"<h2>{escape(title)}</h2>" if title else ""
    intro = f"<p>{lead}</p>" if lead else ""
    return f"<section>{head}{intro}{body}</section>"


def digest(html: str) -> str:
    """Tells whether a part is as it was; 12 characters."""
    return blake3(html.encode()).hexdigest(6)


def fold(title: str, body: str) -> str:
    """A card that is opened by hand."""
    return f"<section><details><summary><h2>{escape(title)}</h2></summary>{body}</details></section>"


def fold_in(title: str, body: str) -> str:
    """A part of a card that is opened by hand."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def pill(word: str) -> str:
    """One word that is a state or a verdict."""
    return f'<span class="pill {_TONES.get(word, "")}">{escape(word.replace("_", "-"))}</span>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], name: str = "") -> str:
    """A table; a column whose name ends in `>` holds numbers."""
    styles = ["number" if column.endswith(">") else "" for column in columns]
    head = "".join(
        f'<th scope="col" class="{style}">{column.removesuffix(">")}</th>'
        for column, style in zip(columns, styles, strict=True)
    )
    cells = (
        "".join(f'<td class="{style}">{cell}</td>' for cell, style in zip(row, styles, strict=True))
        for row in rows
    )
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    ident = f' id="{name}"' if name else ""
    return f"<table{ident}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def scrolled(name: str, inner: str, style: str = "scroll") -> str:
    """What may be wider or higher than its place, reachable by keyboard; `name` is for screen readers."""
    return f'<div class="{style}" tabindex="0" role="region" aria-label="{escape(name)}">{inner}</div>'


def moment(seconds: float) -> str:
    """A moment, UTC; the page's script adds how long ago that is."""
    at = datetime.fromtimestamp(seconds, UTC)
    return f'<time datetime="{at.isoformat(timespec="seconds")}">{at:%Y-%m-%d %H:%M:%S} UTC</time>'


def link(page: str, **query: object) -> str:
    """The address of a page of ours."""
    return escape(f"/{page}?{urlencode(query, doseq=True)}" if query else f"/{page}")


def command(words: str) -> str:
    """Something to type, with a button that copies it."""
    safe = escape(words)
    return f'<code>{safe}</code> <button type="button" class="copy" data-copy="{safe}">copy</button>'


def facts(story: Story, report: RunReport) -> dict[str, str]:
    """What is compared of runs, one line each."""
    scale, latency, overhead = figures.MetricScale.of(report), report.latency, report.overhead
    kinds = [mark.kind for mark in report.marks]
    return {
        "State": pill(story.state.value),
        "Model": escape(report.model),
        "Epochs": str(report.epochs[-1].epoch if report.epochs else 0),
        "Metric": f"{escape(report.metric)} {scale.text(report.quality_after)}",
        "FLOPs": _change(report.flops_before, report.flops_after),
        "Parameters": _change(report.parameters_before, report.parameters_after),
        "Latency": figures.faster(latency),
        "Masks, cuts": f"{kinds.count('mask')}, {kinds.count('cut')}",
        "Rollbacks, refusals": f"{kinds.count('rollback')}, {kinds.count('no_go')}",
        "Seeds kept, culled": f"{kinds.count('fossilized')}, {kinds.count('culled')}",
        "Share of Esper in the time": figures.percent(overhead.esper_fraction, 2)
        if overhead
        else figures.NOT_MEASURED,
    }


def _change(before: float, after: float) -> str:
    return f"{figures.change(before, after)} ({figures.count(before)} → {figures.count(after)})"
