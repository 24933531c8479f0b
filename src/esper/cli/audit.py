"""`esper audit`: what was decided and done in a run, whether that is believed, and a copy to take away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from esper.cli.cycles import cycle_list
from esper.cli.render import BAD, FAINT, GOOD, STRONG, moment, table, worker_table
from esper.report import figures

MOST_ENTRIES = 60
"""Rows of the table that are shown unless all are asked for."""


_CHECKED = "every seal and link checked"


def audit_table(facts: Mapping[str, Any], *, is_whole: bool = False) -> RenderableType:
    """One line per event, oldest first, and one per pruning cycle."""
    rows = facts["events"]
    shown = rows if is_whole else rows[-MOST_ENTRIES:]
    cells = table(">", "time (UTC)", "epoch>", "what", "by", "")
    for row in shown:
        epoch = "" if row["epoch"] is None else str(row["epoch"])
        what = Text(row["kind"], style=BAD if row["severity"] == "problem" else "")
        by = row["who"] if row["by"] == "user" else row["by"]
        cells.add_row(str(row["number"]), moment(row["at_seconds"]), epoch, what, by, row["text"])
    hidden = len(rows) - len(shown)
    left_out = [Text(f"  {figures.things(hidden, 'earlier event')} not shown; --all shows them", style=FAINT)]
    body = [*(left_out if hidden else []), cells] if rows else [Text("  Nothing has happened yet.")]
    cycles = cycle_list(facts, is_whole=is_whole)
    head = _head(facts, f"{figures.things(len(rows), 'event')}, {_CHECKED}")
    if facts["problems"] and not rows:  # nobody knows what has happened
        return Group(*head)
    return Group(*head, *body, *cycles, *worker_table(facts.get("workers", ())))


def check_table(facts: Mapping[str, Any]) -> RenderableType:
    """Intact, and what vouches for it; or what was done to it."""
    named = facts["newest"]
    newest = "" if named is None else f"; {named['checkpoint']} was saved after event {named['number']}"
    anchors = f"  Held against {figures.things(facts['anchors'], 'sealed manifest')} of checkpoints{newest}."
    return Group(*_head(facts, f"{figures.things(facts['entries'], 'event')}, {_CHECKED}"), Text(anchors))


def _head(facts: Mapping[str, Any], what: str) -> list[RenderableType]:
    if not facts["problems"]:
        return [Text.assemble((f"{facts['audit']}: ", STRONG), ("intact", GOOD), f". {what}.")]
    cells = table("found", "")
    for problem in facts["problems"]:
        known = " (the audit tells of that itself, since it was begun anew)" if problem["is_told"] else ""
        cells.add_row(Text(problem["kind"], style=BAD), problem["text"] + known)
    return [Text.assemble((f"{facts['audit']}: ", STRONG), ("not what was written", BAD), "."), cells]
