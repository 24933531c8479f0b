"""What happened in a run, epoch by epoch: the memory behind the report and behind rollback decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, Any

import numpy as np

from esper.anatomy import Anatomy
from esper.emrakul import EpochRecord
from esper.emrakul.cycle import CycleOutcome
from esper.leyline import UNSTORED, decode, encode
from esper.nissa import Event, FanOut, LoggerSink, Moment, acts, kernel_events, progress, seed_events
from esper.report import NOT_APPLIED, DecisionRow, EpochRow, Mark, SeedRow


@dataclass(frozen=True)
class Ending:
    """That the run was finished, and nothing was trained since if the training is at its checkpoint.

    Attributes:
        checkpoint: number of the one that was saved then; it may be later than the last step.
        steps: optimizer steps made until then.
        settings_id: of the settings that it was finished with.
        why: why the target was missed, or nothing was pruned; '' where there is nothing to say.
    """

    checkpoint: int
    steps: int
    settings_id: str
    why: str = ""


@dataclass
class Progress:
    """How far training has come, and what led there: it goes back with the network.

    Attributes:
        epoch: epochs that have ended.
        step: optimizer steps made.
        epochs: what every one of them reported.
        decisions: rows about the plans made.
        ending: how the run was finished; None before that.
        resumed: the ending that was loaded last.
    """

    epoch: int = 0
    step: int = 0
    epochs: list[EpochRow] = field(default_factory=list)
    decisions: list[DecisionRow] = field(default_factory=list)
    ending: Ending | None = None
    resumed: Annotated[Ending | None, UNSTORED] = None

    @property
    def trained_steps(self) -> int:
        """Optimizer steps made, also where `step` is the number of the checkpoint of a finished run."""
        ending = self.resumed
        return self.step if ending is None or self.step != ending.checkpoint else ending.steps

    def state(self) -> Any:
        return encode(self)

    def check(self, state: Mapping[str, Any]) -> None:
        """Every run may have come this far."""

    def load(self, state: Mapping[str, Any]) -> None:
        then = decode(Progress, state)
        self.epoch, self.step = then.epoch, then.step
        self.epochs, self.decisions = then.epochs, then.decisions
        self.ending = self.resumed = then.ending


@dataclass
class RunLog:
    """What has happened on the way, and stays true where training goes back: the first sink of every event.

    Attributes:
        progress: where training is, which is written down on its own.
        marks: moments of the report.
        notes: what people were told once.
        seeds: every step of every seed.
        programs: that `torch.compile` made in epochs with a seed; None: there was none, or nobody counted.
        tries: epochs in which a policy wanted seeds to be tried, whatever came of it.
        waited_seconds: that training has waited for Esper, in all processes until the last end of a period.
        running_seconds: that it took, likewise.
        says: puts a sentence about epochs in the words of the run.
    """

    progress: Annotated[Progress, UNSTORED] = field(default_factory=Progress)
    marks: list[Mark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seeds: list[SeedRow] = field(default_factory=list)
    programs: int | None = None
    tries: list[int] = field(default_factory=list)
    waited_seconds: float = 0.0
    running_seconds: float = 0.0
    says: Annotated[Callable[[str], str], UNSTORED] = str

    def __post_init__(self) -> None:
        self.telling = FanOut(self, LoggerSink(self.says, is_heard=True))
        """Who is told what happens; a further sink is one more here."""
        self._earlier = (0.0, 0.0)

    @property
    def epoch(self) -> int:
        """Epochs that have ended."""
        return self.progress.epoch

    @property
    def epochs(self) -> list[EpochRow]:
        """What every epoch has reported."""
        return self.progress.epochs

    def end_epoch(self, row: EpochRow, spent: tuple[float, float], **cost: Any) -> None:
        """Writes down the period that has just ended, and tells of it and of what Esper has cost.

        Args:
            row: of it.
            spent: seconds that this process has waited for Esper, and those that it has run.
            cost: what else an event of it tells.
        """
        self.epochs.append(row)
        self.spend(*spent)
        waited, running = spent
        seconds: dict[str, Any] = {"esper_seconds": waited, "running_seconds": running}
        self.tell(progress.EpochEnded(**vars(row), **seconds, **cost))

    def spend(self, esper_seconds: float, running_seconds: float) -> None:
        """Writes down what this process has cost until now, with what those before it have."""
        waited, running = self._earlier
        self.waited_seconds, self.running_seconds = waited + esper_seconds, running + running_seconds

    def tell(self, event: Event) -> None:
        """Something has happened: all who want to hear of it are told."""
        self.telling.emit(event)

    def tell_all(self, group: Sequence[Event]) -> None:
        """Several things have been found at once: the audit writes them down together."""
        self.telling.emit_all(group)

    def emit(self, event: Event) -> None:
        """Writes down what `tell` was given: a moment of the report, or a note that is not there yet."""
        if isinstance(event, seed_events.OfSeed):
            way = (event.slot, event.blueprint, event.before, event.after)
            self.seeds.append(SeedRow(event.epoch, *way, event.evidence))
        if isinstance(event, kernel_events.ProgramsCounted):
            self.programs = (self.programs or 0) + event.count
        text = self.says(event.text)
        if isinstance(event, Moment) and event.kind is not None:
            self.marks.append(Mark(event.epoch, event.kind, text))
        elif event.is_noted and text not in self.notes:
            self.notes.append(text)

    def hear_of(self, outside: Iterable[acts.Withdrawn]) -> None:
        """Marks rollbacks from outside of a session, each once."""
        marks = dict.fromkeys(replace(mark, text=self.says(mark.text)) for mark in map(_mark, outside))
        self.marks += [mark for mark in marks if mark not in self.marks]

    def moments(self) -> tuple[Mark, ...]:
        """All marks, by epoch."""
        return tuple(sorted(self.marks, key=lambda mark: mark.epoch))

    def records(self, metric: str) -> list[EpochRecord]:
        """What rollback decisions look at."""
        return [
            EpochRecord(row.epoch, row.metrics.get(metric), row.metrics.get("loss")) for row in self.epochs
        ]

    def taken_back(self) -> set[int]:
        """The epochs under a mask that was taken back after them while training went on from there.

        Its units, which count as gone, are there again one row later.
        """
        found: set[int] = set()
        for earlier, later in pairwise(self.epochs):
            if later.masked_units < earlier.masked_units and later.parameters > earlier.parameters:
                under = [row for row in self.epochs if row.epoch <= earlier.epoch]
                last = max((row.epoch for row in under if row.masked_units <= later.masked_units), default=0)
                found |= {row.epoch for row in under if row.epoch > last}
        return found

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
                    reason=self.says(outcome.reason),
                )
            )

    def not_applied(self, epoch: int) -> None:
        """What was decided about the checkpoint of `epoch` was accepted, and never done to the network."""
        self.progress.decisions = [
            replace(row, verdict=f"{row.verdict}{NOT_APPLIED}") if row.epoch == epoch else row
            for row in self.progress.decisions
        ]

    @staticmethod
    def __stored_before__(stored: Mapping[str, Any]) -> Mapping[str, Any]:
        """Rollbacks from outside stood in a list of their own at first."""
        past = [
            decode(acts.Withdrawn, {key: value for key, value in one.items() if key != "at_seconds"})
            for one in stored.get("withdrawals", ())
        ]
        marks = [*stored["marks"], *(encode(_mark(one)) for one in past)]
        rest = {key: value for key, value in stored.items() if key != "withdrawals"}
        return {**rest, "marks": marks}

    def state(self) -> Any:
        return encode(self)

    def check(self, state: Mapping[str, Any]) -> None:
        """What has happened needs nobody's consent."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on with what had happened; what was noted in this process stays noted."""
        then = decode(RunLog, state)
        self.marks, self.seeds, self.tries = then.marks, then.seeds, then.tries
        self.programs = then.programs
        self._earlier = (then.waited_seconds, then.running_seconds)
        self.waited_seconds, self.running_seconds = self._earlier
        self.notes = [*then.notes, *(text for text in self.notes if text not in then.notes)]


def _mark(past: acts.Withdrawn) -> Mark:
    return Mark(past.to_epoch, "rollback", past.text)
