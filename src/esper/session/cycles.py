"""The analyses of a session: started beside training, collected when they have ended, taken up again."""

from __future__ import annotations

import math
from collections.abc import Callable

from esper.checkpoint import CheckpointRef
from esper.emrakul.cycle import (
    Analyst,
    Coordinator,
    CycleEnd,
    CycleOutcome,
    CycleRunner,
    CycleStatus,
    PendingMask,
)
from esper.importance import TrainingPhase
from esper.importance.tracker import ImportanceTracker
from esper.kasmina import LiveNetwork
from esper.nissa import events, progress
from esper.runs.network import analyst_of, case_of
from esper.session.log import RunLog
from esper.session.saving import Saving
from esper.session.spending import Spending
from esper.session.terms import Terms
from esper.workers import WorkerPool


class Cycles:
    """At most one analysis at a time, about the checkpoint of the last epoch."""

    def __init__(
        self,
        runner: CycleRunner,
        pool: WorkerPool | None,
        network: LiveNetwork,
        tracker: ImportanceTracker,
        saving: Saving,
        terms: Terms,
        log: RunLog,
        spending: Spending,
    ) -> None:
        """Without a `pool` nothing is analyzed."""
        self._runner = runner
        self._pool = pool
        self._network = network
        self._tracker = tracker
        self._saving = saving
        self._terms = terms
        self._log = log
        self._spending = spending
        self._resumed: CycleEnd | None = None
        self._is_early = False
        """Whether people have been told that the network has learned too little."""

    @property
    def coordinator(self) -> Coordinator:
        """Who decides, and is told what became of it."""
        return self._runner.coordinator

    @property
    def are_possible(self) -> bool:
        """Is there somebody to analyze anything?"""
        return self._pool is not None

    @property
    def is_running(self) -> bool:
        """Is an analysis under way, whose mask will be of the units that there are now?"""
        return self._runner.is_running

    @property
    def steps_left(self) -> int:
        """How many steps still fit, with one that is decided on after the epoch that has just ended."""
        return self._runner.steps_left(self._log.epoch)

    @property
    def is_last_call(self) -> bool:
        """Is the epoch that has just ended the last one about which anything is decided?"""
        return self._runner.is_last(self._log.epoch)

    def start(self) -> None:
        """Starts one about the checkpoint that was just handed over, unless one is under way."""
        saving = self._saving
        if self.are_possible and not self._runner.is_running and saving.last_epoch == self._log.epoch:
            self._analyze(saving.durable())

    def take_up(self, target: CheckpointRef) -> None:
        """After a resume: takes what was decided about the checkpoint, or decides now."""
        if self._pool is None or self._saving.is_spent(target) or not self._was_sound():
            return
        self._resumed = self._saving.decided(target, self._network.anatomy)
        if self._resumed is not None:
            self._runner.coordinator.state = self._resumed.state
        else:
            self._analyze(lambda: target)

    def committed(self, step: int) -> PendingMask | None:
        """The mask that was committed beside the checkpoint of `step`, if it verifies."""
        saving = self._saving
        bases = [base for base in saving.store.list().checkpoints if base.step == step]
        end = saving.decided(bases[0], self._network.anatomy) if bases else None
        return None if end is None else end.mask

    def accepted(self) -> PendingMask | None:
        """The mask that the analysis of the epoch before has led to, if it has ended; tells refusals."""
        end = self._ended()
        if end is None:
            return None
        if end.mask is None:
            self._tell_refusal(end)
            return None
        return end.mask if (self._network.masks.keep & ~end.mask.keep).any() else None

    def drop(self) -> None:
        """What is being decided about a state that training leaves is not applied."""
        self._resumed = None
        if self._runner.is_running:
            self._log.tell(progress.AnalysisEnded(self._log.epoch, "dropped", is_late=False, seconds=None))
        self._runner.drop()

    def _ended(self) -> CycleEnd | None:
        if self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            if resumed.outcome is not None:  # the checkpoint that it is about is from before it was decided
                self._log.decide(self._network.anatomy, resumed.outcome)
            return resumed
        runner, log = self._runner, self._log
        if not runner.is_running:
            return None
        patience = self._spending.longest_wait_seconds
        end = runner.collect(min(progress.LONG_SECONDS, patience))
        if end is None and patience > progress.LONG_SECONDS:
            log.tell(progress.AnalysisAwaited(log.epoch, patience))
            end = runner.collect(patience - progress.LONG_SECONDS)
        if end is None:
            log.tell(events.AnalysisLate())
            return None
        outcome = end.outcome
        log.tell(_ended(log.epoch, outcome))
        if outcome is not None:
            log.decide(self._network.anatomy, outcome)
            if outcome.plan is not None:
                self._spending.cycle_ended(outcome.duration_seconds)
        return end

    def _tell_refusal(self, end: CycleEnd) -> None:
        outcome, log = end.outcome, self._log
        if outcome is not None and outcome.status is CycleStatus.REJECTED:
            log.tell(events.Refused(log.epoch, end.reason))
        elif outcome is None or outcome.status is CycleStatus.FAILED or outcome.is_late:
            log.tell(events.Skipped(log.epoch, end.reason))
        elif outcome.is_early and not self._is_early:
            self._is_early = True
            log.tell(events.TooEarly(log.epoch, outcome.reason))
        else:
            log.tell(events.Idle(log.epoch, end.reason))

    def _analyze(self, durable: Callable[[], CheckpointRef]) -> None:
        pool, terms, epoch = self._pool, self._terms, self._log.epoch
        if pool is None:
            return
        # What is known now: nothing live is read while training goes on.
        situation, affordable = terms.situation(self._network), self._spending.affordable_cycles()
        if obstacle := self._runner.obstacle(epoch, situation, affordable):
            self._log.tell(events.Idle(epoch, obstacle))
            return
        allowed = self._network.cuttable_units()
        tracked = self._tracker.evidence(TrainingPhase.at(epoch, terms.epochs))
        still = self._network.still

        def analyst(checkpoint: CheckpointRef) -> Analyst:
            case = case_of(self._saving.store.catalog, checkpoint, situation.keep, tracked, still)
            return analyst_of(case, situation, tracked.weights, allowed, terms.config, pool, enough)

        self._log.tell(progress.AnalysisBegan(epoch))
        enough = self._spending.enough_seconds(self.steps_left)
        self._runner.start(durable, epoch, situation, analyst, terms.epochs, affordable)

    def _was_sound(self) -> bool:
        """Whether the last epoch did not report that the network has broken, and it has not."""
        last = self._log.records(self._terms.metric)[-1:]
        is_number = bool(last) and (last[0].metric is None or math.isfinite(last[0].metric))
        return is_number and not self._network.not_numbers()


def _ended(epoch: int, outcome: CycleOutcome | None) -> progress.AnalysisEnded:
    if outcome is None:  # there was no checkpoint to analyze
        return progress.AnalysisEnded(epoch, CycleStatus.FAILED.value, is_late=False, seconds=None)
    seconds = outcome.duration_seconds if outcome.plan is not None else None
    return progress.AnalysisEnded(epoch, outcome.status.value, outcome.is_late, seconds)
