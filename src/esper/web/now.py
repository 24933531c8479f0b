"""What a run is doing at this moment, in a sentence, and what it has said last."""

from __future__ import annotations

from html import escape

from esper.report import RunReport, figures
from esper.runs import RunState, Story
from esper.web.html import moment, pill, section


def sentence(story: Story) -> str:
    """What goes on, as plain text."""
    told, report = story.told, story.report
    if report is None:
        return "Nothing was written yet."
    reached = report.epochs[-1].epoch if report.epochs else 0
    of = f" of {story.planned}" if story.planned else ""
    if story.state is RunState.FINISHED:
        return f"Finished after {figures.things(reached, report.unit)}."
    if story.state is RunState.STOPPED:
        return f"Not running. It came as far as {report.unit} {reached}{of}, and can be resumed from there."
    if story.state is RunState.UNKNOWN:
        return f"At {report.unit} {reached}{of}. Nobody here can tell whether it is running."
    doing = [f"Training {report.unit} {reached + 1}{of}"]
    if told.analyzing is not None:
        doing.append(f"analyzing the checkpoint of {report.unit} {told.analyzing} beside it")
    if told.trial is not None:
        doing.append(f"watching whether the mask of {report.unit} {told.trial} proves itself")
    growing = [place for place, stage in _seeds(report).items() if stage not in _SETTLED]
    if growing:
        doing.append(f"growing {figures.things(len(growing), 'seed')} ({', '.join(growing)})")
    return ", ".join(doing) + "."


_SETTLED = frozenset({"FOSSILIZED", "CULLED", "EMBARGOED", "RESETTING", "TERMINATED", "DORMANT", "UNKNOWN"})


def _seeds(report: RunReport) -> dict[str, str]:
    """Where the last seed of every place stands."""
    return {row.slot: row.after for row in report.seeds}


def now_of(story: Story) -> str:
    """The card on top of a run's page."""
    told = story.told
    body = f'<p class="now">{escape(sentence(story))}</p>'
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


def _costs(story: Story) -> list[tuple[str, str]]:
    """What Esper costs in this run, and when it was heard of last."""
    told, report = story.told, story.report
    rows: list[tuple[str, str]] = []
    overhead = report.overhead if report else None
    if overhead is not None:
        rows = [
            (
                "training waited for Esper",
                f"{figures.seconds(overhead.esper_seconds)} ({figures.percent(overhead.esper_fraction)})",
            ),
            ("tracking, share of a step", figures.percent(overhead.tracking_fraction, 3)),
        ]
    if told.durations:
        rows.append(
            ("analyses, beside training", f"{len(told.durations)}, {figures.seconds(sum(told.durations))}")
        )
    if told.at_seconds is not None:
        rows.append(("last sign of life", moment(told.at_seconds)))
    return rows
