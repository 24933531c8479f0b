"""`esper audit show`: what was done to a run's network, when, by whom, and how it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from esper.cli.cycles import cycle_list, cycles_of
from esper.cli.render import BAD, STRONG, moment, table, worker_table
from esper.runs import checkpoint_at

if TYPE_CHECKING:
    from esper.report import DecisionRow

_BY = {
    "mask": "session",
    "judged": "urabrask",
    "cut": "kasmina",
    "rollback": "session",
    "skipped": "emrakul",
    "no_go": "urabrask",
}
"""The part that acted, by the kind of a mark."""
_BY_HAND = "by hand."


@dataclass(frozen=True)
class Event:
    """One line of the audit. `at_seconds` is since 1970, and None where only the epoch is known."""

    epoch: int
    at_seconds: float | None
    what: str
    by: str
    outcome: str
    text: str


def audited(path: Path) -> dict[str, Any]:
    """The events of a run as its newest verified checkpoint, or the one that is named, remembers them.

    Raises:
        EsperError: there is no such checkpoint, or it is none of a session.
    """
    from esper.checkpoint import withdrawals
    from esper.runs.network import read_state
    from esper.session import RunLog

    catalog, checkpoint = checkpoint_at(path)
    parts, log = read_state(checkpoint), RunLog()
    log.progress.load(parts["progress"])
    log.load(parts["log"])
    since, damaged = withdrawals(catalog, checkpoint)
    saved = {
        ref.epoch: ref.created_seconds for ref in catalog.list().checkpoints if ref.step <= checkpoint.step
    }
    events = [
        Event(mark.epoch, saved.get(mark.epoch), mark.kind, _actor(mark.kind, mark.text), "done", mark.text)
        for mark in log.marks
    ]
    events += [
        Event(past.to_epoch, past.at_seconds, "rollback", "user", "done", past.text)
        for past in (*log.withdrawals, *since)
    ]
    events += _decided(log.progress.decisions, saved)
    return {
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "events": [dataclasses.asdict(event) for event in sorted(events, key=lambda event: event.epoch)],
        **cycles_of(parts),
        "workers": list(parts["workers"]),
        "notes": [*log.notes, *damaged],
    }


def audit_table(facts: Mapping[str, Any], *, is_whole: bool = False) -> RenderableType:
    """One line per event, oldest first, one per pruning cycle, and what the run was told besides."""
    cells = table("epoch>", "time (UTC)", "what", "by", "outcome", "")
    for event in facts["events"]:
        at = event["at_seconds"]
        is_bad = event["what"] in ("rollback", "skipped", "no_go")
        cells.add_row(
            str(event["epoch"]),
            "" if at is None else moment(at),
            Text(event["what"], style=BAD if is_bad else ""),
            event["by"],
            event["outcome"],
            event["text"],
        )
    head = Text(f"{facts['checkpoint']}, which verified in full, remembers:", style=STRONG)
    body = cells if facts["events"] else Text("  nothing was decided yet.")
    notes = (Text(f"  {note}") for note in facts["notes"])
    cycles = cycle_list(facts, is_whole=is_whole)
    return Group(head, body, *cycles, *worker_table(facts["workers"]), *notes)


def _actor(kind: str, text: str) -> str:
    return "user" if kind == "rollback" and text.endswith(_BY_HAND) else _BY[kind]


def _decided(rows: Sequence[DecisionRow], saved: Mapping[int, float]) -> list[Event]:
    """One event per plan, with the groups that it was about."""
    plans: dict[tuple[int, str, str], list[DecisionRow]] = {}
    for row in rows:
        plans.setdefault((row.epoch, row.verdict, row.reason), []).append(row)
    return [
        Event(
            epoch,
            saved.get(epoch),
            "plan",
            "emrakul",
            verdict,
            f"{', '.join(f'{row.units} of {row.group}' for row in groups)}. {reason}",
        )
        for (epoch, verdict, reason), groups in plans.items()
    ]
