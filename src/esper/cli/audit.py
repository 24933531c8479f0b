"""`esper audit`: what was decided and done in a run, whether that is believed, and a copy to take away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from esper.cli.cycles import DECIDED, cycle_list
from esper.cli.render import BAD, FAINT, GOOD, STRONG, moment, table, worker_table
from esper.errors import CheckpointCorrupt, EsperError
from esper.report import figures
from esper.runs import open_catalog, step_number

if TYPE_CHECKING:
    from esper.checkpoint.audit import AuditReader, StoredEntry

MOST_ENTRIES = 60
"""Rows of the table that are shown unless all are asked for."""


@dataclass(frozen=True)
class Audited:
    """The audit of a run, or of what it was when one checkpoint was saved."""

    reader: AuditReader
    until: int | None = None

    @classmethod
    def at(cls, path: Path) -> Audited:
        """Reads and verifies it.

        Raises:
            EsperError: there is no such run or checkpoint, or the run has no audit.
        """
        from esper.checkpoint import open_key_ring
        from esper.checkpoint.audit import AuditReader

        full = path.resolve()
        is_checkpoint = full.parent.name == "checkpoints" and full.name.startswith("step-")
        run = full.parents[1] if is_checkpoint else path
        catalog = open_catalog(run)
        reader = AuditReader(catalog, open_key_ring(run))
        if not is_checkpoint:
            return cls(reader)
        anchor = catalog.at(step_number(full)).manifest.audit
        return cls(reader, 0 if anchor is None else anchor.number)

    def entries(self) -> Iterator[StoredEntry]:
        """Those that were there then."""
        return (one for one in self.reader.entries() if self.until is None or one.number <= self.until)

    def problems(self) -> list[dict[str, str]]:
        """What is wrong, by its kind."""
        return [{"kind": one.kind.value, "text": one.text} for one in self.reader.report.findings]

    def shown(self, path: Path) -> dict[str, Any]:
        """Everything that `esper audit show` tells."""
        rows, cycles = [], []
        for one in self.entries():
            document = one.document()
            rows.append({key: document[key] for key in _COLUMNS})
            if one.entry.kind == DECIDED:
                cycles.append(one.entry.facts["record"])
        head = {"audit": str(self.reader.path), "problems": self.problems()}
        return {**head, "events": rows, "cycles": cycles, **_remembered(path)}

    def checked(self) -> dict[str, Any]:
        """Everything that `esper audit verify` tells."""
        report = self.reader.report
        last = None if report.last is None else report.last.number
        newest = max(report.anchors, key=lambda named: named[1].number, default=None)
        return {
            "audit": str(self.reader.path),
            "entries": report.entries,
            "last": last,
            "anchors": len(report.anchors),
            "newest": None if newest is None else {"checkpoint": newest[0], "number": newest[1].number},
            "problems": self.problems(),
        }

    def exported(self) -> list[dict[str, Any]]:
        """Every entry in full, with what it takes to check it elsewhere.

        Raises:
            CheckpointCorrupt: it does not verify, so that nobody should take it away.
        """
        if problems := self.problems():
            raise CheckpointCorrupt(
                f"{self.reader.path} does not verify: {problems[0]['text']}. Nothing was exported. "
                "`esper audit verify` tells all that is wrong; the file itself is what to keep."
            )
        return [one.document() for one in self.entries()]


_CHECKED = "every seal and link checked"
_COLUMNS = ("number", "at_seconds", "epoch", "kind", "severity", "by", "who", "text")


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
        cells.add_row(Text(problem["kind"], style=BAD), problem["text"])
    return [Text.assemble((f"{facts['audit']}: ", STRONG), ("not what was written", BAD), "."), cells]


def _remembered(path: Path) -> dict[str, Any]:
    """How workers have fared and what the next cycle begins with, if a checkpoint tells; it is no audit."""
    from esper.runs import checkpoint_at
    from esper.runs.network import read_state

    try:
        parts = read_state(checkpoint_at(path)[1])
    except EsperError:
        return {}
    coordinator = parts.get("coordinator") or {}
    state = {key: coordinator[key] for key in ("schedule", "breaker") if key in coordinator}
    return {**state, "workers": list(parts["workers"])}
