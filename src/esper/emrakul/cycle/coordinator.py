"""Runs one pruning cycle; the one place where an error becomes "no pruning this cycle"."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from esper.emrakul.cycle.budget import Budget
from esper.emrakul.cycle.decide import Analyst, Cycle, Rules, decide
from esper.emrakul.cycle.history import History, extended
from esper.emrakul.cycle.outcome import CycleOutcome, CycleStatus
from esper.emrakul.plan import bounds
from esper.emrakul.schedule import Allowance, ScheduleState
from esper.emrakul.settings import Settings
from esper.errors import AnalysisTimeout
from esper.importance import ThresholdSettings
from esper.leyline import Breaker, BreakerEvent, BreakerState, Clock, IdempotencyKey, Level, content_id


@dataclass(frozen=True)
class CoordinatorState:
    """What the coordinator remembers between cycles; stored in every checkpoint."""

    schedule: ScheduleState = field(default_factory=ScheduleState)
    breaker: Breaker = field(default_factory=Breaker)
    history: History = ()


Recall = Callable[[IdempotencyKey], tuple[CycleOutcome, CoordinatorState] | None]
"""Finds the stored outcome of a decision, and what the coordinator remembered after it; None if new."""


class Coordinator:
    """Decides once per checkpoint. It measures nothing itself and changes no network."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        state: CoordinatorState | None = None,
        thresholds: ThresholdSettings | None = None,
    ) -> None:
        """Takes up the work.

        Args:
            settings: at what risk, and in what time.
            clock: monotonic seconds.
            state: where it was left off.
            thresholds: up to which rank of the screen a unit is a candidate, in the stages.
        """
        self.state = state or CoordinatorState()
        self._thresholds = thresholds or ThresholdSettings()
        self._settings = settings
        self._clock = clock
        self._last: CycleOutcome | None = None

    def run_cycle(
        self, cycle: Cycle, allowance: Allowance, analyst: Analyst, recall: Recall = lambda _: None
    ) -> CycleOutcome:
        """One cycle: finalists, analysis, plan, validation; smaller plans while the answer is no.

        Whatever `analyst` raises ends the cycle as failed, and training goes on. The same cycle asked again
        gives the stored outcome without measuring anything: this coordinator's last one, or one that
        `recall` finds.
        """
        key = self._key(cycle, allowance, analyst)
        if self._last is not None and self._last.key == key:
            return self._last
        known = recall(key)
        if known is not None:
            self._last, self.state = known
            return self._last
        budget = Budget.begin(self._settings.budget, self._clock)
        refusal = self.obstacle(cycle.epoch, allowance)
        outcome = CycleOutcome(CycleStatus.SKIPPED, key, refusal, allowance)
        if refusal:
            return outcome
        rules = Rules(self._settings, self._thresholds, self.state.schedule.pace)
        try:
            for step in decide(cycle, outcome, analyst, rules, budget):
                outcome = step  # what was found so far is in it, however the cycle ends
        except Exception as error:  # noqa: BLE001 - the one place: a failed analysis must not stop training
            outcome = _failed(outcome, error)
        self._last = outcome.explained(cycle.situation.anatomy, budget.elapsed_seconds)
        self._remember(self._last, cycle)
        return self._last

    def record_rollback(self, epoch: int) -> None:
        """Tells that an accepted plan was taken back: smaller steps, and one failure for the breaker."""
        self.record_refusal(epoch)
        self.state = replace(self.state, breaker=self._breaker_after(BreakerEvent.FAILURE, epoch))

    def record_refusal(self, epoch: int) -> None:
        """Tells that the plan accepted for the checkpoint of `epoch` did not hold on the live network."""
        schedule = self.state.schedule.after_rejection(self._settings.schedule, epoch)
        self.state = replace(self.state, schedule=schedule)

    def record_settled(self, epoch: int) -> None:
        """Tells that an applied plan has proved itself: failures before it no longer count."""
        breaker = self._breaker_after(BreakerEvent.SUCCESS, epoch)
        self.state = replace(self.state, schedule=self.state.schedule.after_success(), breaker=breaker)

    def close_breaker(self, epoch: int) -> None:
        """The operator's word that pruning may go on."""
        self.state = replace(self.state, breaker=self._breaker_after(BreakerEvent.BY_HAND, epoch))

    def breaker_state(self, epoch: int) -> BreakerState:
        """Whether pruning may go on."""
        return self.state.breaker.state(epoch, self._settings.budget)

    def _breaker_after(self, event: BreakerEvent, epoch: int) -> Breaker:
        return self.state.breaker.after(event, epoch, self._settings.budget)

    def obstacle(self, epoch: int, allowance: Allowance) -> str:
        """Why a cycle of this epoch would be skipped; '' if nothing stands in its way."""
        if obstacle := self.state.breaker.obstacle(epoch, self._settings.budget):
            return obstacle
        return "" if allowance.is_open else allowance.reason

    def _key(self, cycle: Cycle, allowance: Allowance, analyst: Analyst) -> IdempotencyKey:
        decision = content_id(
            {
                "anatomy": cycle.situation.anatomy.digest,
                "removed": (~cycle.situation.keep).nonzero()[0].tolist(),
                "settings": self._settings.model_dump(mode="json"),
                "thresholds": self._thresholds.model_dump(mode="json"),
                "rests_on": analyst.id,
            }
        )
        return IdempotencyKey(cycle.epoch, cycle.model_hash, decision, Level.highest(allowance.levels))

    def _remember(self, outcome: CycleOutcome, cycle: Cycle) -> None:
        schedule, breaker, rules = self.state.schedule, self.state.breaker, self._settings.schedule
        end = outcome.allowance.end_fraction
        if outcome.mask is not None and outcome.evidence is not None and end is not None:
            # What a step has begun, the next ones end: the way is planned anew from the smaller network.
            after = cycle.situation.under(outcome.mask)
            end = bounds(after, outcome.evidence.screen, self._settings).target_fraction
        if end is not None:
            schedule = replace(schedule, target_fraction=end)
        history = self.state.history
        if history and history[-1].status == CycleStatus.ACCEPTED and cycle.epoch > history[-1].epoch:
            # As long as the last mask took, the next ones are likely to take.
            schedule = replace(schedule, cycle_epochs=cycle.epoch - history[-1].epoch)
        if outcome.status is CycleStatus.ACCEPTED:
            schedule = schedule.after_acceptance(rules)
        elif outcome.status is CycleStatus.REJECTED:
            schedule = schedule.after_rejection(rules, cycle.epoch)
        if outcome.status is CycleStatus.FAILED or outcome.is_late:
            breaker = self._breaker_after(BreakerEvent.FAILURE, cycle.epoch)
        self.state = CoordinatorState(schedule, breaker, extended(self.state.history, outcome))


def _failed(outcome: CycleOutcome, error: Exception) -> CycleOutcome:
    """How a cycle ends in which something was raised; a plan that had been accepted stays so."""
    if outcome.status is CycleStatus.ACCEPTED:  # it was about a larger one
        return outcome
    if isinstance(error, AnalysisTimeout):
        return replace(outcome, reason=str(error), is_late=True)
    text = "".join(traceback.format_exception(error))
    return replace(outcome, status=CycleStatus.FAILED, reason=f"{type(error).__name__}: {error}", error=text)
