"""What a run is doing at this moment, in a sentence."""

from __future__ import annotations

from esper.report import RunReport, figures
from esper.runs.story import RunState, Story


def doing(story: Story) -> str:
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
    parts = [f"Training {report.unit} {reached + 1}{of}"]
    if told.analyzing is not None:
        parts.append(f"analyzing the checkpoint of {report.unit} {told.analyzing} beside it")
    if told.trial is not None:
        parts.append(f"watching whether the mask of {report.unit} {told.trial} proves itself")
    growing = [place for place, stage in _seeds(report).items() if stage not in _SETTLED]
    if growing:
        parts.append(f"growing {figures.things(len(growing), 'seed')} ({', '.join(growing)})")
    return ", ".join(parts) + "."


_SETTLED = frozenset({"FOSSILIZED", "CULLED", "EMBARGOED", "RESETTING", "TERMINATED", "DORMANT", "UNKNOWN"})


def _seeds(report: RunReport) -> dict[str, str]:
    """Where the last seed of every place stands."""
    return {row.slot: row.after for row in report.seeds}
