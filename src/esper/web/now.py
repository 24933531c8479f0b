"""What a run is doing at this moment, in a sentence, and what it has said last."""

from __future__ import annotations

from html import escape

from esper.narset import Summary
from esper.report import figures
from esper.runs import RunState, Story, doing
from esper.web.html import moment, pill, section


def now_of(story: Story) -> str:
    """The card on top of a run's page."""
    told = story.told
    body = f'<p class="now">{escape(doing(story))}</p>'
    costs = _costs(story)
    if costs:
        body += f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in costs)}</dl>"
    if told.latest:
        items = "".join(
            f"<li>{moment(at)} {pill('problem') if severity == 'problem' else ''} {escape(text)}</li>"
            for at, severity, text in told.latest[:6]
        )
        body += f'<h3>Last said</h3><ul class="said">{items}</ul>'
    return section("Now" if story.state is not RunState.FINISHED else "At the end", body)


def _steps(steps: Summary) -> str:
    """How long the steps of the whole run took."""
    ranks = {"half": 0.5, "95 %": 0.95, "99 %": 0.99}
    within = {words: steps.quantile(rank) for words, rank in ranks.items()}
    parts = [f"{words} within {value * 1e3:.3g} ms" for words, value in within.items() if value is not None]
    return f"{steps.finite:,} timed: {', '.join(parts)}"


def _costs(story: Story) -> list[tuple[str, str]]:
    """What Esper costs in this run, and when it was heard of last."""
    told, report = story.told, story.report
    rows: list[tuple[str, str]] = []
    overhead = report.overhead if report else None
    if overhead is not None:
        rows = [
            (
                "training waited for Esper",
                f"{figures.seconds(overhead.esper_seconds)} ({figures.percent(overhead.esper_fraction, 2)})",
            ),
            ("tracking, share of a step", figures.percent(overhead.tracking_fraction, 3)),
        ]
    if told.durations:
        rows.append(
            ("analyses, beside training", f"{len(told.durations)}, {figures.seconds(sum(told.durations))}")
        )
    steps = told.counted.get("step_seconds")
    if steps is not None and steps.finite:
        rows.append(("steps", _steps(steps)))
    if told.at_seconds is not None:
        rows.append(("last sign of life", moment(told.at_seconds)))
    return rows
