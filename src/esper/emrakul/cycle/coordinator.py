"""Runs one pruning cycle; the one place where an error becomes "no pruning this cycle"."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from esper.anatomy import Anatomy, Kind
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.cost import Origin
from esper.elesh import Evidence
from esper.emrakul.cycle.budget import Breaker, Budget, Phase
from esper.emrakul.cycle.history import CycleRecord, History, extended
from esper.emrakul.cycle.outcome import CycleOutcome, Status
from esper.emrakul.plan import Plan, Rationale, bounds, finalists, make_plan, shrink
from esper.emrakul.schedule import Allowance, Schedule, ScheduleState
from esper.emrakul.settings import Settings
from esper.errors import AnalysisTimeout
from esper.importance import AdaptiveThresholdSelector, SafetyLevel, ThresholdSettings, TrainingPhase
from esper.leyline import Clock, IdempotencyKey, Level, content_id
from esper.urabrask import Verdict


class Screen(Protocol):
    """Scores all units from existing statistics: importance rank 0 to 1, NaN unmeasured, shape [units]."""

    def __call__(self) -> FloatArray: ...


class Analyze(Protocol):
    """Ablates the finalists (unit numbers, sorted) within `seconds`; what was not reached stays NaN."""

    def __call__(self, finalists: IntArray, seconds: float, /) -> Evidence: ...


class Validate(Protocol):
    """Measures the network with only `keep` left, within `seconds`."""

    def __call__(self, keep: BoolArray, seconds: float, /) -> Verdict: ...


class Recall(Protocol):
    """Finds the stored outcome of a decision, and what the coordinator remembered after it; None if new."""

    def __call__(self, key: IdempotencyKey, /) -> tuple[CycleOutcome, CoordinatorState] | None: ...


@dataclass(frozen=True, eq=False)
class Cycle:
    """What a cycle is about: the network of one durable checkpoint."""

    epoch: int
    """Number of epochs that have ended."""
    anatomy: Anatomy
    keep: BoolArray
    """Units that are left, shape [units]."""
    model_hash: str
    """Digest of the checkpoint."""
    rests_on: str = ""
    """Names what the answers depend on beside checkpoint and settings of the plan: data, other settings."""


@dataclass(frozen=True)
class CoordinatorState:
    """What the coordinator remembers between cycles; stored in every checkpoint."""

    schedule: ScheduleState = field(default_factory=ScheduleState)
    breaker: Breaker = field(default_factory=Breaker)
    history: History = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "schedule": self.schedule.to_json(),
            "breaker": self.breaker.to_json(),
            "history": [record.to_json() for record in self.history],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CoordinatorState:
        return cls(
            ScheduleState.from_json(data["schedule"]),
            Breaker.from_json(data["breaker"]),
            tuple(CycleRecord.from_json(record) for record in data.get("history", ())),  # older runs: none
        )


class Coordinator:
    """Decides once per checkpoint. It measures nothing itself and changes no network."""

    def __init__(
        self,
        settings: Settings,
        schedule: Schedule,
        origin: Origin,
        clock: Clock,
        state: CoordinatorState | None = None,
        thresholds: ThresholdSettings | None = None,
    ) -> None:
        """Takes up the work.

        Args:
            settings: how much, when, at what risk.
            schedule: of this run.
            origin: the uncut network.
            clock: monotonic seconds.
            state: where it was left off.
            thresholds: up to which rank of the screen a unit is a candidate, in the stages.
        """
        self.state = state or CoordinatorState()
        self._thresholds = thresholds or ThresholdSettings()
        self._settings = settings
        self._schedule = schedule
        self._origin = origin
        self._clock = clock
        self._last: CycleOutcome | None = None

    def run_cycle(
        self,
        cycle: Cycle,
        *,
        screen: Screen,
        analyze: Analyze,
        validate: Validate,
        recall: Recall | None = None,
    ) -> CycleOutcome:
        """One cycle: finalists, analysis, plan, validation; smaller plans while the answer is no.

        Whatever `screen`, `analyze` or `validate` raise ends the cycle as failed, and training goes on. The
        same cycle asked again gives the stored outcome without measuring anything: this coordinator's last
        one, or one that `recall` finds.
        """
        removed = self._origin.removed_fraction(cycle.anatomy, cycle.keep, self._settings.cost)
        allowance = self._schedule.allowed(cycle.epoch, self.state.schedule, removed)
        key = self._key(cycle, allowance)
        if self._last is not None and self._last.key == key:
            return self._last
        known = recall(key) if recall is not None else None
        if known is not None:
            self._last, self.state = known
            return self._last
        budget = Budget.begin(self._settings.budget, self._clock)
        ramp = self.state.schedule
        selector = AdaptiveThresholdSelector(self._thresholds)
        parts = (self._settings, self._schedule, self._origin, selector)
        attempt = _Attempt(*parts, cycle, ramp, allowance, key, budget)
        refusal = self._refusal(cycle.epoch, allowance)
        if refusal:
            return attempt.end(Status.SKIPPED, refusal)
        try:
            outcome = attempt.run(screen, analyze, validate)
        except AnalysisTimeout as error:
            outcome = attempt.late(str(error))
        except Exception as error:  # noqa: BLE001 - the one place: a failed analysis must not stop training
            outcome = attempt.failed(error)
        self.state = replace(self.state, schedule=attempt.ramp)
        self._remember(outcome, cycle.epoch)
        return outcome

    def record_rollback(self, epoch: int) -> None:
        """Tells that an accepted plan was taken back: smaller steps, and one failure for the breaker."""
        self.state = replace(
            self.state,
            schedule=self.state.schedule.after_rejection(self._settings.schedule, epoch),
            breaker=self.state.breaker.after_failure(epoch, self._settings.budget),
        )

    def record_refusal(self, epoch: int) -> None:
        """Tells that the plan accepted for the checkpoint of `epoch` did not hold on the live network."""
        schedule = self.state.schedule.after_rejection(self._settings.schedule, epoch)
        self.state = replace(self.state, schedule=schedule)

    def record_settled(self, epoch: int) -> None:
        """Tells that an applied plan has proved itself: failures before it no longer count."""
        breaker = self.state.breaker.after_success(epoch, self._settings.budget)
        self.state = replace(self.state, schedule=self.state.schedule.after_success(), breaker=breaker)

    def close_breaker(self) -> None:
        """The operator's word that pruning may go on."""
        self.state = replace(self.state, breaker=self.state.breaker.closed())

    def _refusal(self, epoch: int, allowance: Allowance) -> str | None:
        breaker, budget = self.state.breaker, self._settings.budget
        if breaker.is_open(epoch, budget):
            until = (breaker.opened_epoch or 0) + budget.cooldown_epochs
            return f"The breaker is open after {breaker.failures} failures in a row, until epoch {until}."
        return None if allowance.is_open else allowance.reason

    def _key(self, cycle: Cycle, allowance: Allowance) -> IdempotencyKey:
        decision = content_id(
            {
                "anatomy": cycle.anatomy.digest,
                "removed": (~cycle.keep).nonzero()[0].tolist(),
                "settings": self._settings.model_dump(mode="json"),
                "thresholds": self._thresholds.model_dump(mode="json"),
                "rests_on": cycle.rests_on,
            }
        )
        return IdempotencyKey(cycle.epoch, cycle.model_hash, decision, Level.highest(allowance.levels))

    def _remember(self, outcome: CycleOutcome, epoch: int) -> None:
        self._last = outcome
        schedule, breaker = self.state.schedule, self.state.breaker
        if outcome.status is Status.ACCEPTED:
            schedule = schedule.after_acceptance(self._settings.schedule)
        elif outcome.status is Status.REJECTED:
            schedule = schedule.after_rejection(self._settings.schedule, epoch)
        if outcome.status is Status.FAILED or outcome.is_late:
            breaker = breaker.after_failure(epoch, self._settings.budget)
        self.state = CoordinatorState(schedule, breaker, extended(self.state.history, outcome))


@dataclass(eq=False)
class _Attempt:
    """One cycle under way: what it found so far ends up in its outcome, however it ends."""

    settings: Settings
    schedule: Schedule
    origin: Origin
    selector: AdaptiveThresholdSelector
    cycle: Cycle
    ramp: ScheduleState
    allowance: Allowance
    key: IdempotencyKey
    budget: Budget
    evidence: Evidence | None = None
    plan: Plan | None = None
    verdict: Verdict | None = None
    refused: tuple[Verdict, ...] = ()

    def run(self, screen: Screen, analyze: Analyze, validate: Validate) -> CycleOutcome:
        cycle, ranks = self.cycle, screen()
        if self.budget.is_spent(Phase.ANALYSIS):
            return self.late("The screen took the whole time of the analysis.")
        self._head_for(ranks, cycle.keep)
        removed = self.origin.removed_fraction(cycle.anatomy, cycle.keep, self.settings.cost)
        self.allowance = self.schedule.allowed(cycle.epoch, self.ramp, removed)
        candidates = self._candidates(ranks)
        asked = finalists(
            cycle.anatomy,
            cycle.keep,
            ranks,
            self.allowance,
            self.settings,
            origin=self.origin,
            candidates=candidates,
        )
        if not asked.size:
            return self.end(
                Status.SKIPPED, "No unit may go: all are unmeasured, at their floor, or of another kind."
            )
        self.evidence = analyze(asked, self.budget.remaining_seconds(Phase.ANALYSIS))
        if self.budget.is_spent(Phase.ANALYSIS):
            return self.late("The analysis passed its share of the deadline.")
        self.plan = make_plan(
            cycle.anatomy,
            cycle.keep,
            self.evidence,
            self.allowance,
            self.settings,
            origin=self.origin,
            finalists=asked,
            candidates=candidates,
        )
        outcome = self._offer(self.plan, validate)
        if outcome.status is Status.ACCEPTED:
            self._head_for(ranks, self.plan.keep)  # what a step has begun, the next ones end
        return outcome

    def _candidates(self, ranks: FloatArray) -> BoolArray | None:
        """The share of the units that phase and stage allow to be considered: the least important of a kind.

        None with a target, which says itself how much must go. One unit of each kind is allowed at least,
        because a share of a small network is less than that.
        """
        if self.settings.target is not None:
            return None
        phase = TrainingPhase.at(self.cycle.epoch, self.schedule.epochs)
        known = [level.value for level in SafetyLevel]
        stage = self.allowance.stage
        safety = SafetyLevel(stage) if stage in known else SafetyLevel.MODERATE
        anatomy, left = self.cycle.anatomy, np.where(self.cycle.keep, ranks, np.nan)
        candidates = np.zeros(anatomy.num_units, np.bool_)
        for kind in Kind:
            scores = np.where(anatomy.kind_of == kind.value, left, np.nan)
            if np.isfinite(scores).any():
                threshold = self.selector.select(scores, phase, safety, target_fraction=1.0)
                candidates |= threshold.below(scores) | (scores == np.nanmin(scores))
        return candidates

    def _head_for(self, ranks: FloatArray, keep: BoolArray) -> None:
        """Where whole multiples need more than the target, the ramp leads there."""
        end = bounds(self.cycle.anatomy, keep, ranks, self.settings, self.origin).target_fraction
        if end is not None:
            self.ramp = replace(self.ramp, target_fraction=end)

    def _offer(self, plan: Plan, validate: Validate) -> CycleOutcome:
        for _ in range(self.settings.plan.max_attempts):
            if plan.is_empty:
                break
            seconds = self.budget.remaining_seconds(Phase.VALIDATION)
            self.plan, self.verdict = plan, validate(plan.keep, seconds)
            if self.budget.is_spent(Phase.VALIDATION):
                return self.late("The validation passed its share of the deadline.")
            if self.verdict.is_accepted:
                return self.end(Status.ACCEPTED, self.verdict.reason)
            self.refused = (*self.refused, self.verdict)
            plan = shrink(plan, self.cycle.anatomy, self.origin)
        if self.verdict is None:
            return self.end(Status.SKIPPED, _why_empty(plan))
        self.refused = self.refused[:-1]  # the last one stands as the verdict
        return self.end(Status.REJECTED, self.verdict.reason)

    def late(self, why: str) -> CycleOutcome:
        return replace(self.end(Status.SKIPPED, why), is_late=True)

    def failed(self, error: Exception) -> CycleOutcome:
        text = "".join(traceback.format_exception(error))
        return replace(self.end(Status.FAILED, f"{type(error).__name__}: {error}"), error=text)

    def end(self, status: Status, reason: str) -> CycleOutcome:
        return CycleOutcome(
            status,
            self.key,
            reason,
            self.allowance,
            self.plan,
            self.verdict,
            self.evidence,
            self.refused,
            self._rationale(),
            duration_seconds=self.budget.elapsed_seconds,
        )

    def _rationale(self) -> Rationale | None:
        if self.plan is None or self.evidence is None:
            return None
        return Rationale.of(self.plan, self.evidence, self.cycle.anatomy)


def _why_empty(plan: Plan) -> str:
    held = ", ".join(f"{units.size} by {reason}" for reason, units in plan.rejected.items())
    return f"No finalist can go; held back: {held}." if held else "No finalist can go within the allowance."
