"""What happened in a run, epoch by epoch: the memory behind the report and behind rollback decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np

from esper.anatomy import Anatomy
from esper.checkpoint import Withdrawal
from esper.emrakul import EpochRecord
from esper.emrakul.cycle import CycleOutcome
from esper.leyline import UNSTORED, decode, encode
from esper.nissa import LOGGER, Event, FanOut, Moment
from esper.report import DecisionRow, EpochRow, Mark


@dataclass
class Progress:
    """How far training has come, and what led there: it goes back with the network.

    Attributes:
        epoch: epochs that have ended.
        step: optimizer steps made.
        epochs: what every one of them reported.
        decisions: rows about the plans made.
    """

    epoch: int = 0
    step: int = 0
    epochs: list[EpochRow] = field(default_factory=list)
    decisions: list[DecisionRow] = field(default_factory=list)

    def state(self) -> Any:
        return encode(self)

    def check(self, state: Mapping[str, Any]) -> None:
        """Every run may have come this far."""

    def load(self, state: Mapping[str, Any]) -> None:
        then = decode(Progress, state)
        self.epoch, self.step = then.epoch, then.step
        self.epochs, self.decisions = then.epochs, then.decisions


@dataclass
class RunLog:
    """What has happened on the way, and stays true where training goes back: the first sink of every event.

    Attributes:
        progress: where training is, which is written down on its own.
        marks: moments of the report.
        notes: what people were told once.
        withdrawals: rollbacks from outside of a session, which marks nothing then.
    """

    progress: Annotated[Progress, UNSTORED] = field(default_factory=Progress)
    marks: list[Mark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    withdrawals: list[Withdrawal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.telling = FanOut(self, LOGGER)
        """Who is told what happens; a further sink is one more here."""

    @property
    def epoch(self) -> int:
        """Epochs that have ended."""
        return self.progress.epoch

    @property
    def epochs(self) -> list[EpochRow]:
        """What every epoch has reported."""
        return self.progress.epochs

    def tell(self, event: Event) -> None:
        """Something has happened: all who want to hear of it are told."""
        self.telling.emit(event)

    def emit(self, event: Event) -> None:
        """Writes down what `tell` was given: a moment of the report, or a note that is not there yet."""
        if isinstance(event, Moment) and event.kind is not None:
            self.marks.append(Mark(event.epoch, event.kind, event.text))
        elif event.is_noted and event.text not in self.notes:
            self.notes.append(event.text)

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
            self.progress.decisions.append(
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

    def state(self) -> Any:
        return encode(self)

    def check(self, state: Mapping[str, Any]) -> None:
        """What has happened needs nobody's consent."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on with what had happened; what was noted in this process stays noted."""
        then = decode(RunLog, state)
        self.marks, self.withdrawals = then.marks, then.withdrawals
        self.notes = [*then.notes, *(text for text in self.notes if text not in then.notes)]
