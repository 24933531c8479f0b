"""A run as a terminal shows it: a panel that is drawn anew, or one line where nothing can be drawn."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from esper.report import RunReport, Standing, figures
from esper.runs.now import doing
from esper.runs.story import RunState, Story


def live_panel(story: Story, unheard: int = 0) -> RenderableType:
    """What people want to see of a run: how far, how good, how much is gone, what goes on, what it costs.

    Args:
        story: of the run.
        unheard: sentences of its last ones to show below.
    """
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in facts(story):
        rows.add_row(name, Text(value))
    parts: list[RenderableType] = [Text(doing(story), style="bold"), *_bar(story), rows]
    for _, severity, text in reversed(story.told.latest[:unheard]):
        parts.append(Text(text, style="yellow" if severity == "problem" else ""))
    parts += [Text(problem, style="red") for problem in story.problems]
    return Panel(Group(*parts), title=Text(f"Esper: {story.name}"), title_align="left")


def live_line(story: Story) -> str:
    """The same as one line of text."""
    return " ".join([doing(story), *(f"{name}: {value}." for name, value in facts(story))])


def facts(story: Story) -> Iterator[tuple[str, str]]:
    """Names and values; what was not measured is said to be."""
    report = story.report
    if report is None:
        return
    yield report.metric, _metric(report)
    loss = report.epochs[-1].metrics.get("loss") if report.epochs else None
    if loss is not None and report.metric != "loss":
        yield "loss", figures.plain(loss, 4)
    yield "removed", _removed(story, report)
    overhead = report.overhead
    if overhead is not None:
        waited = f"{figures.seconds(overhead.esper_seconds)} waited for Esper"
        yield "cost", f"{waited}, {figures.percent(overhead.esper_fraction, 2)} of the time{_start(report)}"
    broken = [promise.text for promise in report.promises if promise.standing is Standing.BROKEN]
    if broken:
        yield "not kept", " ".join(broken)


def _metric(report: RunReport) -> str:
    value = figures.MetricScale.of(report).text(report.quality_after)
    return f"{value} ({report.quality_source})" if report.quality_source else value


def _removed(story: Story, report: RunReport) -> str:
    flops = figures.change(report.flops_before, report.flops_after)
    parameters = figures.change(report.parameters_before, report.parameters_after)
    is_over = story.state is RunState.FINISHED  # then what was masked is cut, or a note says why not
    masked = 0 if is_over else story.told.masked_units
    on_trial = f", {figures.things(masked, 'unit')} masked and not cut yet" if masked else ""
    return f"FLOPs {flops}, parameters {parameters}{on_trial}"


def _start(report: RunReport) -> str:
    """Where the start is too much of the cost to judge by, that it is among it."""
    is_early = any(
        one.name == "training_time_impact" and one.standing is Standing.TOO_EARLY for one in report.promises
    )
    return ", what is done once at the start included" if is_early else ""


def _bar(story: Story) -> Iterator[RenderableType]:
    epochs = story.report.epochs if story.report else ()
    if story.planned and epochs:
        bar = Table.grid()  # a bar alone does not end its line
        bar.add_row(
            ProgressBar(total=story.planned, completed=min(epochs[-1].epoch, story.planned), width=40)
        )
        yield bar
