"""The audit of a run, read from outside: everything that was told, and one decision in full."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper.errors import CheckpointCorrupt, ConfigError, EsperError
from esper.leyline import decode
from esper.runs.open import checkpoint_at, open_catalog
from esper.runs.rows import step_number

if TYPE_CHECKING:
    from esper.checkpoint.audit import AuditReader, StoredEntry
    from esper.emrakul.cycle import CycleOutcome

DECIDED, MASKED = "decided", "masked"
"""The kinds of the entries that tell of a cycle, and of a mask that was applied."""
_COLUMNS = ("number", "at_seconds", "epoch", "kind", "severity", "by", "who", "text")


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

    def problems(self) -> list[dict[str, Any]]:
        """What is wrong, by its kind; `is_told`: the audit itself tells of it, since it was begun anew."""
        return [
            {"kind": one.kind.value, "text": one.text, "is_told": one.is_told}
            for one in self.reader.report.findings
        ]

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
        newest = max(report.anchors, key=lambda named: (named[1].number, named[0]), default=None)
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


def decided(path: Path, entries: Iterable[StoredEntry], epoch: int) -> dict[str, Any]:
    """What was decided after one epoch of a run: every check with its number, every finalist with its fate.

    Raises:
        ConfigError: no cycle ended for that epoch.
    """
    stored = list(entries)
    cycles = [one for one in stored if one.entry.kind == DECIDED]
    decisions = [_decision(one) for one in cycles if one.entry.epoch == epoch]
    if not decisions:
        known = sorted({one.entry.epoch for one in cycles if one.entry.epoch is not None})
        there = f"There are those of epochs {', '.join(map(str, known))}." if known else "There is none yet."
        raise ConfigError(f"{path} holds no pruning cycle of epoch {epoch}. {_applied(stored, epoch)}{there}")
    return {"epoch": epoch, "decisions": decisions}


def _applied(entries: Iterable[StoredEntry], epoch: int) -> str:
    """After which epoch the mask was decided that was applied after another one; '' if there was none."""
    decided_after: int | None = None
    for one in entries:
        if one.entry.kind == DECIDED:
            decided_after = one.entry.epoch
        elif one.entry.kind == MASKED and one.entry.epoch == epoch and decided_after is not None:
            return f"The mask that was applied after epoch {epoch} was decided after epoch {decided_after}. "
    return ""


def _decision(stored: StoredEntry) -> dict[str, Any]:
    from esper.emrakul.cycle import CycleOutcome

    entry = stored.entry
    outcome = decode(CycleOutcome, entry.facts["outcome"])
    verdicts = (*outcome.refused, *(() if outcome.verdict is None else (outcome.verdict,)))
    document = {
        "number": stored.number,
        "status": outcome.status.value,
        "reason": outcome.reason,
        "at_seconds": entry.at_seconds,
        "who": entry.who,
        "settings_id": entry.facts["settings_id"],
        "key": str(outcome.key),
        "allowance": asdict(outcome.allowance),
        "plan": _plan(outcome),
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "finalists": [] if outcome.rationale is None else outcome.rationale.rows(),
        "error": outcome.error,
        "notes": [] if outcome.plan is None else list(outcome.plan.notes),
    }
    return dict(_finite(document))


def _plan(outcome: CycleOutcome) -> dict[str, Any] | None:
    plan = outcome.plan
    if plan is None:
        return None
    numbers = {"units": plan.units.size, "predicted_loss": plan.total_predicted_loss}
    names = ("cost", "goal_fraction", "limit_fraction", "removed_before", "removed_after", "allowed_loss")
    return {"id": plan.id, "level": plan.level.value, **numbers, **{n: getattr(plan, n) for n in names}}


def _remembered(path: Path) -> dict[str, Any]:
    """How workers have fared and what the next cycle begins with, if a checkpoint tells; it is no audit."""
    from esper.runs.network import read_state

    try:
        parts = read_state(checkpoint_at(path)[1])
    except EsperError:
        return {}
    coordinator = parts.get("coordinator") or {}
    state = {key: coordinator[key] for key in ("schedule", "breaker") if key in coordinator}
    return {**state, "workers": list(parts["workers"])}


def _finite(value: Any) -> Any:
    """The same for JSON, which knows no number that is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
