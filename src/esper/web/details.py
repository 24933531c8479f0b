"""Parts of a run's page that need its keys and torch: checkpoints, one decision, the network as a map."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.errors import CheckpointMissing
from esper.report import MapGroup, figures, network_map
from esper.runs import (
    Audited,
    VerifyRow,
    anatomy_rows,
    checkpoint_rows,
    decided,
    inspected,
    open_catalog,
    step_number,
    to_verify,
    verify_row,
)
from esper.web.changing import READS_ONLY
from esper.web.html import AGAIN, command, link, moment, pill, scrolled, section, table

if TYPE_CHECKING:
    from esper.checkpoint import CheckpointCatalog

_MOST_ALIKE = 12
_NUMBERS = ("screen", "loss_increase", "confidence")


def warm_up() -> None:
    """Imports what decisions and maps need, which takes seconds."""
    for part in ("esper.emrakul.cycle", "esper.runs.network"):
        importlib.import_module(part)


def checkpoints(run: Path, name: str, *, may_change: bool) -> str:
    """The checkpoints as their sealed manifests describe them, with the way to verify them and to go back.

    Args:
        run: the run directory.
        name: of the run on the pages.
        may_change: whether this server goes back for whoever has its token.

    Raises:
        EsperError: nothing of it can be read.
    """
    catalog = open_catalog(run)
    rows = checkpoint_rows(catalog)
    place = shlex.quote(str(run))
    if not rows:
        return section("Checkpoints", "<p>There is no checkpoint yet.</p>")
    newest = max((step_number(path) for path in catalog.newest_first()), default=0)
    columns = ("Checkpoint", "Step>", "Epoch>", "Saved", "Size>", "", "To go back to it")
    cells = [
        (
            f'<span class="name">{escape(row.name)}</span>',
            "" if row.step is None else str(row.step),
            "" if row.epoch is None else str(row.epoch),
            "" if row.created_seconds is None else moment(row.created_seconds),
            "" if row.size_bytes is None else figures.size(row.size_bytes),
            escape("; ".join((*row.attachments, *row.problems))),
            "" if row.step is None else _way_back(place, name, row.step, newest, may_change=may_change),
        )
        for row in reversed(rows)
    ]
    lead = "The newest first. Going back to one deletes those after it, while the run is not training." + (
        "" if may_change else f" {escape(READS_ONLY)}"
    )
    typed = command(f"esper verify {place}")
    button = (
        f'<p class="tools"><button type="button" data-verify="{link("verify", run=name)}" '
        f'data-into="verified">Verify every byte</button> or type {typed} {AGAIN}</p>'
        '<div id="verified" role="status"></div>'
    )
    return section(
        "Checkpoints", button + scrolled("Checkpoints", table(columns, cells), "tall scroll"), lead
    )


def _way_back(place: str, name: str, step: int, newest: int, *, may_change: bool) -> str:
    if step >= newest:
        return "it is the newest"
    typed = command(f"esper rollback {place} --to {step}")
    if not may_change:
        return typed
    asks = link("part/rollback", run=name, to=step)
    return f'<button type="button" class="copy" data-ask="{asks}">Go back to step {step} ...</button> {typed}'


def verified(run: Path) -> Iterator[dict[str, Any]]:
    """What reading every byte of every checkpoint finds: how far it is, one by one, and at last the result.

    Raises:
        EsperError: nothing of it can be read; before anything is yielded.
    """
    catalog = open_catalog(run)
    paths = to_verify(catalog)
    if not paths:
        raise CheckpointMissing(f"{run} holds no checkpoints, so there is nothing to verify.")
    return _verifying(catalog, paths)


def _verifying(catalog: CheckpointCatalog, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    rows: list[VerifyRow] = []
    for done, path in enumerate(paths):
        read = sum(row.verified_bytes for row in rows)
        words = f"Reading {path.name}, {done + 1} of {len(paths)}; {figures.size(read)} read."
        yield {"done": done, "of": len(paths), "text": words}
        rows.append(verify_row(catalog, path))
    yield {"done": len(paths), "of": len(paths), "html": _found(rows)}


def _found(rows: Sequence[VerifyRow]) -> str:
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
