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
        return f"Not running. {_way_back(story, report)}"
    if story.state is RunState.UNKNOWN:
        return f"At {report.unit} {reached}{of}. Nobody here can tell whether it is running."
    if story.planned and reached >= story.planned:
        return f"All {figures.things(story.planned, report.unit)} are trained; finishing."
    parts = [f"Training {report.unit} {reached + 1}{of}"]
    if told.analyzing is not None:
        parts.append(f"analyzing the checkpoint of {report.unit} {told.analyzing} beside it")
    if told.trial is not None:
        parts.append(f"watching whether the mask of {report.unit} {told.trial} proves itself")
    growing = [place for place, stage in _seeds(report).items() if stage not in _SETTLED]
    if growing:
        parts.append(f"growing {figures.things(len(growing), 'seed')} ({', '.join(growing)})")
    return ", ".join(parts) + "."


def _way_back(story: Story, report: RunReport) -> str:
    """From where a run that has stopped goes on: what it has not saved is lost."""
    told, step = story.told, story.saved_step
    if step is not None and told.withdrawn_to == step:
        return f"Somebody went back to step {step} by hand; it resumes from there."
    last = report.epochs[-1] if report.epochs else None
    of = f" of {story.planned}" if story.planned else ""
    way = (
        f"It has not ended any {report.unit}"
        if last is None
        else f"It came as far as {report.unit} {last.epoch}{of}"
    )
    if step is None:
        return f"{way}, and no checkpoint is there to resume from."
    if last is not None and last.step == step:
        return f"{way}, and resumes from there."
    ended = [row.epoch for row in report.epochs if row.step == step]
    place = f"{report.unit} {ended[0]}" if ended else "the start" if step == 0 else f"step {step}"
    return f"{way}. It is saved up to {place}, and resumes from there."


_SETTLED = frozenset({"FOSSILIZED", "CULLED", "EMBARGOED", "RESETTING", "TERMINATED", "DORMANT", "UNKNOWN"})


def _seeds(report: RunReport) -> dict[str, str]:
    """Where the last seed of every place stands."""
    return {row.slot: row.after for row in report.seeds}
