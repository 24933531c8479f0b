"""What the pages show: every page is a title and named parts of HTML, made from the runs as they are now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from urllib.parse import urlencode

from esper.errors import ConfigError
from esper.report import (
    MOST_RUNS,
    RunReport,
    cost_comparison,
    figures,
    quality_comparison,
    sections,
    summary_of,
)
from esper.runs import RunState, Story
from esper.web.folder import Folder
from esper.web.html import COUNTS, facts, fold, link, moment, pill, scrolled, section, table
from esper.web.now import now_of
from esper.web.tracks import tracks

READING_SECONDS = 0.3
"""How long a list of runs may read; what there was no time for is read at the next look."""
MOST_CYCLES, MOST_NUMBERS = 40, 60
MOST_LISTED = 100
"""Runs that a list shows unless all are asked for."""


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        title: of the document.
        query: the path and query that show it.
        parts: HTML by the id of its place, in order; asked for again whenever something may have changed.
    """

    title: str
    query: str
    parts: Callable[[], dict[str, str]]


def overview(folder: Folder, *, shows_all: bool = False) -> Page:
    """The runs of the folder, those that are training first, then the newest."""
    most = None if shows_all else MOST_LISTED
    return Page("Esper runs", "/?all=yes" if shows_all else "/", lambda: _overview(folder, most))


def run_page(folder: Folder, name: str) -> Page:
    """One run.

    Raises:
        ConfigError: there is no such run.
    """
    shown = [folder.story(name)]
    made: dict[str, str] = {}

    def parts() -> dict[str, str]:
        """Made anew only where the run has changed: a page that is watched asks several times a second."""
        story = folder.story(name)
        if not made or story is not shown[0]:
            shown[0] = story
            made.update(_run(story))
        return dict(made)

    return Page(name, f"/run?{urlencode({'run': name})}", parts)


def comparison(folder: Folder, names: Sequence[str]) -> Page:
    """Several runs side by side.

    Raises:
        ConfigError: there is no such run, or they are too few or too many.
    """
    if not 2 <= len(names) <= MOST_RUNS:
        raise ConfigError(f"{len(names)} run(s) were chosen; from 2 to {MOST_RUNS} can be compared.")
    for name in names:
        folder.story(name)
    query = f"/compare?{urlencode({'run': list(names)}, doseq=True)}"
    return Page("Runs compared", query, lambda: _compared([folder.story(name) for name in names]))


# --- All runs ---


def _overview(folder: Folder, most: int | None) -> dict[str, str]:
    stories, unseen = folder.stories(READING_SECONDS)
    stories.sort(key=lambda story: (story.state is not RunState.RUNNING, -_last(story), story.name))
    running = sum(story.state is RunState.RUNNING for story in stories)
    number = figures.things(len(stories) + len(unseen), "run")
    head = (
        f'<header><p class="eyebrow">Esper</p><h1>Runs</h1><p>{number} in <span class="name">'
        f"{escape(str(folder.path))}</span>, {running} of them training now.</p></header>"
    )
    closed = _closed(folder.closed)
    if folder.problem:
        return {"head": head, "runs": section("Nothing can be shown", f"<p>{escape(folder.problem)}</p>")}
    if not stories and not unseen:
        nothing = (
            "<p>There is no run here yet. One appears as soon as a script calls "
            "<code>esper.attach(..., run_dir=...)</code> with a directory in this folder; this page notices "
            "by itself. <code>esper demo</code> makes one in <code>runs/</code>.</p>"
        )
        return {"head": head, "runs": section("No runs", nothing + closed)}
    rest = f"<p class=none>{figures.things(len(unseen), 'more run')} are being read.</p>" if unseen else ""
    if hidden := len(stories[:0] if most is None else stories[most:]):
        older = figures.things(hidden, "older run")
        rest += f'<p class=none>{older} not listed, nor filtered. <a href="/?all=yes">List all</a></p>'
    columns = ("", "Run", "State", "Epoch>", "Metric>", "FLOPs>", "Parameters>", "Last change")
    rows = [_overview_row(story) for story in stories[:most]]
    form = (
        '<form action="/compare" method="get"><p class="tools"><label>Filter <input type="search" '
        'id="filter" data-filter="runs-table" autocomplete="off"></label> '
        "<button>Compare chosen runs</button></p>"
        f"{scrolled('Runs', table(columns, rows, 'runs-table'))}</form>"
    )
    return {"head": head, "runs": section("", form + rest + closed)}


def _closed(closed: Sequence[str]) -> str:
    """That there may be more runs, where nobody can look."""
    if not closed:
        return ""
    some = ", ".join(closed[:3]) + (" ..." if len(closed) > 3 else "")
    number = figures.things(len(closed), "folder")
    return f'<p class="problem">{number} cannot be read by whoever runs this server: {escape(some)}.</p>'


def _last(story: Story) -> float:
    return story.at_seconds or 0.0


def _overview_row(story: Story) -> tuple[str, ...]:
    name, report = escape(story.name), story.report
    box = f'<input type="checkbox" name="run" value="{name}" aria-label="Compare {name}">'
    named = f'<a class="name" href="{link("run", run=story.name)}">{name}</a>'
    last = moment(story.at_seconds) if story.at_seconds else ""
    if report is None:
        why = escape(story.problems[0]) if story.problems else "nothing was written yet"
        return (box, named, pill(story.state.value), "", why, "", "", last)
    scale = figures.MetricScale.of(report)
    value = (
        f"{escape(report.metric)} {scale.text(report.quality_after)}"
        if report.quality_after is not None
        else ""
    )
    return (
        box,
        named,
        pill(story.state.value),
        _epochs(story, report),
        value or figures.NOT_MEASURED,
        figures.change(report.flops_before, report.flops_after),
        figures.change(report.parameters_before, report.parameters_after),
        last,
    )


def _epochs(story: Story, report: RunReport) -> str:
    reached = report.epochs[-1].epoch if report.epochs else 0
    of = f" of {story.planned}" if story.planned and story.state is not RunState.FINISHED else ""
    return f"{reached}{of}"


# --- One run ---


def _run(story: Story) -> dict[str, str]:
    report = story.report
    head = _head(story)
    if report is None:
        why = "".join(f"<p>{escape(problem)}</p>" for problem in story.problems)
        empty = why or "<p>Nothing was written into this run directory yet. This page notices when it is.</p>"
        return {"head": head, "now": section("Nothing to show yet", empty)}
    parts = sections(report)
    return {
        "head": head,
        "now": now_of(story),
        **{name: parts[name] for name in ("figures", "arms", "quality", "cost", "widths")},
        "cycles": _cycles(story),
        "decisions": parts["decisions"],
        "tracks": tracks(report),
        "seeds": parts["seeds"],
        **{name: parts[name] for name in ("promises", "proof", "workers", "notes")},
        "numbers": _numbers(report),
    }


def _head(story: Story) -> str:
    line = f"<p>{summary_of(story.report)}</p>" if story.report else ""
    problems = "".join(f'<p class="problem">{escape(problem)}</p>' for problem in story.problems)
    return (
        f'<header><p class="eyebrow">Esper run {pill(story.state.value)}</p><h1>{escape(story.name)}</h1>'
        f"{line}{problems}</header>"
    )


def _cycles(story: Story) -> str:
    """What was decided, one row per cycle, with why the other candidates stayed."""
    cycles = story.told.cycles
    if not cycles:
        return ""
    unit = story.report.unit.capitalize() if story.report else "Epoch"
    columns = (
        f"{unit}>",
        "Decision",
        "Go>",
        "Removed>",
        "Predicted loss>",
        "Drop>",
        "Because",
        "Why others stay",
        "",
    )
    rows = []
    for one in reversed(cycles[-MOST_CYCLES:]):
        has_plan = one.get("plan_id") is not None
        shares = (figures.percent(one.get(key)) for key in ("removed_before", "removed_after"))
        held = ", ".join(
            f"{count} {reason.replace('_', ' ')}" for reason, count in (one.get("held") or {}).items()
        )
        evidence = link("decision", run=story.name, epoch=one.get("epoch"))
        rows.append(
            (
                escape(str(one.get("epoch"))),
                pill(str(one.get("status"))),
                f"{one.get('units')} of {one.get('finalists')}" if has_plan else "",
                " → ".join(shares) if has_plan else "",
                figures.plain(one.get("predicted_loss")) if has_plan else "",
                figures.plain(one.get("drop")) if one.get("drop") is not None else "",
                f'<span class="reason">{escape(str(one.get("reason", "")))}</span>',
                f'<span class="held">{escape(held)}</span>',
                f'<a href="{evidence}" aria-label="Evidence, {unit} {one.get("epoch")}">evidence</a>',
            )
        )
    hidden = len(cycles) - len(rows)
    more = (
        f" {figures.things(hidden, 'earlier one')} not shown; <code>esper audit show</code> has all."
        if hidden
        else ""
    )
    lead = f"One row for each pruning cycle, the newest first.{more}"
    return section("What was decided, and why", scrolled("Decisions", table(columns, rows), "tall"), lead)


def _numbers(report: RunReport) -> str:
    """The newest rows as a table, for whoever reads numbers rather than curves."""
    rows = report.epochs[-MOST_NUMBERS:]
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    columns = (f"{report.unit.capitalize()}>", "Step>", *(f"{name}>" for name in names), *COUNTS)
    cells = [
        (
            str(row.epoch),
            str(row.step),
            *(figures.plain(row.metrics.get(name), 5) for name in names),
            figures.count(row.flops),
            figures.count(row.parameters),
            str(row.masked_units),
            figures.seconds(row.seconds),
        )
        for row in reversed(rows)
    ]
    title = f"The last {figures.things(len(rows), report.unit)} as numbers"
    return fold(title, scrolled(title, table(columns, cells), "tall"))


# --- Several runs ---


def _compared(stories: Sequence[Story]) -> dict[str, str]:
    head = '<header><p class="eyebrow">Esper</p><h1>Runs compared</h1></header>'
    known = [(story, story.report) for story in stories if story.report is not None and story.report.epochs]
    silent = [story.name for story in stories if story.report is None or not story.report.epochs]
    aside = f"<p class=none>No epoch has ended in {escape(', '.join(silent))}.</p>" if silent else ""
    if not known:
        return {"head": head, "table": section("Nothing to compare yet", aside)}
    reports = [replace(report, title=story.name) for story, report in known]
    columns = ("", *(escape(story.name) for story, _ in known))
    lines = [facts(story, report) for story, report in known]
    rows = [(name, *(line[name] for line in lines)) for name in lines[0]]
    return {
        "head": head,
        "quality": section(
            "What they are judged by",
            _chart(quality_comparison(reports)),
            "Lanes show masks, cuts, rollbacks and seeds that were kept.",
        ),
        "cost": section(
            "FLOPs", _chart(cost_comparison(reports)), "Shares of what each network cost at its start."
        ),
        "table": section(
            "Numbers",
            f'<div class="scroll" tabindex="0" role="region" aria-label="Numbers">'
            f"{table(columns, rows)}</div>{aside}",
        ),
    }


def _chart(svg: str) -> str:
    return scrolled("Chart", svg, "scroll chart")
