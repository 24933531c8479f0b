"""Parts of a run's page that need its keys and torch: checkpoints, one decision, the network as a map."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from esper.errors import CheckpointMissing
from esper.report import MapGroup, figures, network_map
from esper.runs import Audited, anatomy_rows, checkpoint_rows, decided, inspected, open_catalog, verify_rows
from esper.web.html import moment, pill, scrolled, section, table

_MOST_ALIKE = 12
_NUMBERS = ("screen", "loss_increase", "confidence")


def warm_up() -> None:
    """Imports what decisions and maps need, which takes seconds."""
    for part in ("esper.emrakul.cycle", "esper.runs.network"):
        importlib.import_module(part)


def checkpoints(run: Path, verify_address: str) -> str:
    """The checkpoints as their sealed manifests describe them, with the way to verify them and to go back.

    Args:
        run: the run directory.
        verify_address: what the button posts to.

    Raises:
        EsperError: nothing of it can be read.
    """
    rows = checkpoint_rows(open_catalog(run))
    place = shlex.quote(str(run))
    if not rows:
        return section("Checkpoints", "<p>There is no checkpoint yet.</p>")
    columns = ("Checkpoint", "Step>", "Epoch>", "Saved", "Size>", "", "To go back to it")
    cells = [
        (
            f'<span class="name">{escape(row.name)}</span>',
            "" if row.step is None else str(row.step),
            "" if row.epoch is None else str(row.epoch),
            "" if row.created_seconds is None else moment(row.created_seconds),
            "" if row.size_bytes is None else figures.size(row.size_bytes),
            escape("; ".join((*row.attachments, *row.problems))),
            "" if row.step is None else _command(f"esper rollback {place} --to {row.step}"),
        )
        for row in reversed(rows)
    ]
    lead = (
        "The newest first. Going back deletes later checkpoints, so it is done on the command line, while "
        "the run is not training."
    )
    button = (
        f'<p class="tools"><button type="button" data-post="{escape(verify_address)}" data-into="verified">'
        f"Verify every byte</button> or type {_command(f'esper verify {place}')}</p>"
        '<div id="verified" role="status"></div>'
    )
    return section(
        "Checkpoints", button + scrolled("Checkpoints", table(columns, cells), "tall scroll"), lead
    )


def verified(run: Path) -> str:
    """What reading every byte of every checkpoint finds.

    Raises:
        EsperError: nothing of it can be read.
    """
    rows = verify_rows(open_catalog(run), lambda paths, _: iter(paths))
    if not rows:
        raise CheckpointMissing(f"{run} holds no checkpoints, so there is nothing to verify.")
    damaged = [row for row in rows if row.findings]
    read = figures.size(sum(row.verified_bytes for row in rows))
    if not damaged:
        return f"<p>{pill('healthy')} {figures.things(len(rows), 'checkpoint')} intact, {read} read.</p>"
    items = "".join(f"<li>{escape(row.name)}: {escape('; '.join(row.findings))}</li>" for row in damaged)
    return f"<p>{pill('failed')} {len(damaged)} of {len(rows)} damaged.</p><ul>{items}</ul>"


def network(run: Path, title: str) -> str:
    """The network of the newest good checkpoint as a picture.

    Raises:
        EsperError: there is none, or its graph is not known.
    """
    rows = anatomy_rows(inspected(str(run)))
    if not rows.layers:
        raise CheckpointMissing(
            f"The newest checkpoint of {run} holds no graph of the network, so it cannot be drawn."
        )
    groups = [MapGroup(row.name, row.kind, row.width, row.flops_fraction) for row in rows.groups]
    return network_map(title, rows.layers, groups)


def decision(run: Path, epoch: int) -> str:
    """What was decided after one epoch: every check, and every candidate with why it goes or stays.

    Raises:
        EsperError: there is no such decision, or the audit cannot be read.
    """
    audited = Audited.at(run)
    doubts = "".join(f'<p class="problem">{escape(one["text"])}</p>' for one in audited.problems())
    facts = decided(run, audited.entries(), epoch)
    return doubts + "".join(_decision(one) for one in facts["decisions"])


def _decision(one: Mapping[str, Any]) -> str:
    plan = one["plan"]
    lead = f"{moment(one['at_seconds'])}, {pill(one['status'])} {escape(one['reason'])}"
    allowed = f"{one['allowance']['stage']}: {one['allowance']['reason']}"
    lines = [allowed, *one["notes"]]
    if plan is not None:
        before, after, goal = (
            figures.percent(plan[n]) for n in ("removed_before", "removed_after", "goal_fraction")
        )
        lines.insert(
            0,
            f"{plan['units']} of {figures.things(len(one['finalists']), 'candidate')} go: "
            f"{before} to {after} of the {plan['cost']} removed ({goal} asked for), predicted loss "
            f"{figures.plain(plan['predicted_loss'])}.",
        )
    body = "".join(f"<p>{escape(line)}</p>" for line in lines)
    verdicts = "".join(_verdict(v, n, len(one["verdicts"])) for n, v in enumerate(one["verdicts"], 1))
    return section(one["status"].capitalize(), body + verdicts + _candidates(one["finalists"]), lead)


def _verdict(verdict: Mapping[str, Any], number: int, count: int) -> str:
    columns = ("Check", "Passed", "Measured>", "Limit>", "")
    rows = [
        (
            escape(check["name"]),
            pill("yes" if check["passed"] else "no"),
            figures.plain(check["value"]),
            figures.plain(check["limit"]),
            escape(check["text"]),
        )
        for check in verdict["checks"]
    ]
    of = f" {number} of {count}" if count > 1 else ""
    return (
        f'<h3>Verdict{of}: {escape(verdict["decision"])}</h3><div class="scroll">{table(columns, rows)}</div>'
    )


def _candidates(finalists: Sequence[Mapping[str, Any]]) -> str:
    """Those of each fate, and what the fate means."""
    parts = []
    for fate in dict.fromkeys(row["reason"] for row in finalists):
        alike = [row for row in finalists if row["reason"] == fate]
        columns = ("Unit", "Kind", "Judged by", "Screen>", "Loss increase>", "Confidence>", "Saves>")
        rows = [
            (
                f'<span class="name">{escape(row["unit"])}</span>',
                escape(row["kind"]),
                escape(row["tier"] or ""),
                *(figures.plain(row[name]) for name in _NUMBERS),
                figures.percent(row["saved_fraction"], 2) if row["saved_fraction"] is not None else "",
            )
            for row in alike[:_MOST_ALIKE]
        ]
        hidden = len(alike) - len(rows)
        more = f" {hidden} more are alike." if hidden else ""
        name = fate.replace("_", " ")
        parts.append(
            f"<h3>{escape(name)}: {len(alike)}</h3><p>{escape(alike[0]['why'].capitalize())}.{more}</p>"
            f"{scrolled(name, table(columns, rows))}"
        )
    return "".join(parts)


def _command(words: str) -> str:
    """Something to type, with a button that copies it."""
    safe = escape(words)
    return f'<code>{safe}</code> <button type="button" class="copy" data-copy="{safe}">copy</button>'
