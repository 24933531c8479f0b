"""What happened in a run, epoch by epoch: the memory behind the report and behind rollback decisions."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from esper.anatomy import Anatomy
from esper.checkpoint import Withdrawal
from esper.emrakul import EpochRecord
from esper.emrakul.cycle import CycleOutcome
from esper.report import DecisionRow, EpochRow, Mark, MarkKind

_LOG = logging.getLogger("esper")


def say(text: str, *, problem: bool = False) -> None:
    """Tells people: INFO on the logger "esper", a problem as WARNING."""
    _LOG.log(logging.WARNING if problem else logging.INFO, text)


@dataclass
class RunLog:
    """Rows of the report, stored with every checkpoint."""

    epochs: list[EpochRow] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    decisions: list[DecisionRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    withdrawals: list[Withdrawal] = field(default_factory=list)
    """Rollbacks from outside of a session, which marks nothing then."""

    def mark(self, epoch: int, kind: MarkKind, text: str) -> None:
        self.marks.append(Mark(epoch, kind, text))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def tell(self, epoch: int, kind: MarkKind, text: str, *, problem: bool = False) -> None:
        """Marks a moment, and tells people."""
        self.mark(epoch, kind, text)
        say(f"epoch {epoch}: {text}", problem=problem)

    def tell_once(self, text: str) -> None:
        """Notes a problem and tells people, unless it was noted before."""
        if text not in self.notes:
            self.note(text)
            say(text, problem=True)

    def take_over(self, other: RunLog) -> None:
        """Adds what another log of the same run tells beside epochs and decisions."""
        self.marks.extend(mark for mark in other.marks if mark not in self.marks)
        self.withdrawals.extend(past for past in other.withdrawals if past not in self.withdrawals)
        self.notes.extend(note for note in other.notes if note not in self.notes)

    def moments(self) -> tuple[Mark, ...]:
        """All marks, and those that a rollback from outside would have made, by epoch."""
        outside = [Mark(past.to_epoch, "rollback", past.text) for past in self.withdrawals]
        return tuple(sorted([*self.marks, *outside], key=lambda mark: mark.epoch))

    def records(self, metric: str) -> list[EpochRecord]:
        """What rollback decisions look at."""
        return [
            EpochRecord(row.epoch, row.metrics.get(metric), row.metrics.get("loss")) for row in self.epochs
        ]

    def decide(self, anatomy: Anatomy, outcome: CycleOutcome) -> None:
        """One row per group of a plan, with the mean of its units' evidence."""
        plan = outcome.plan
        if plan is None or plan.is_empty:
            return
        verdict = outcome.verdict.decision.value if outcome.verdict else outcome.status.value
        groups = anatomy.group_of[plan.units]
        for number in np.unique(groups):
            chosen = groups == number
            group = anatomy.groups[int(number)]
            self.decisions.append(
                DecisionRow(
                    epoch=outcome.key.epoch,
                    group=group.name,
                    kind=group.kind.value,
                    units=int(chosen.sum()),
                    score=float(plan.screen[chosen].mean()),
                    confidence=float(plan.confidence[chosen].mean()),
                    loss_increase=float(plan.loss_increase[chosen].sum()),
                    verdict=verdict,
                    reason=outcome.reason,
                )
            )
