"""The analyses of a session: started beside training, collected when they have ended, taken up again."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from esper.checkpoint import CheckpointRef
from esper.emrakul.cycle import Analyst, CycleEnd, CycleStatus, PendingMask
from esper.importance import TrainingPhase
from esper.runs.network import analyst_of
from esper.session.state import Memory, Parts

_LOG = logging.getLogger("esper")


class Cycles:
    """At most one analysis at a time, about the checkpoint of the last epoch."""

    def __init__(self, parts: Parts, memory: Memory) -> None:
        self._parts = parts
        self._memory = memory
        self._resumed: CycleEnd | None = None

    def start(self) -> None:
        """Starts one about the checkpoint that was just handed over, unless one is under way."""
        runner, saving = self._parts.runner, self._parts.saving
        if runner is not None and not runner.is_running and saving.last_epoch == self._memory.epoch:
            self._analyze(saving.durable())

    def take_up(self, target: CheckpointRef) -> None:
        """After a resume: takes what was decided about the checkpoint, or decides now."""
        parts = self._parts
        if parts.runner is None or parts.saving.is_spent(target) or not self._was_sound():
            return
        self._resumed = parts.saving.decided(target, parts.network.anatomy)
        if self._resumed is not None:
            parts.runner.coordinator.state = self._resumed.state
        else:
            self._analyze(lambda: target)

    def committed(self, step: int) -> PendingMask | None:
        """The mask that was committed beside the checkpoint of `step`, if it verifies."""
        saving = self._parts.saving
        bases = [base for base in saving.store.list().checkpoints if base.step == step]
        end = saving.decided(bases[0], self._parts.network.anatomy) if bases else None
        return None if end is None else end.mask

    def accepted(self) -> PendingMask | None:
        """The mask that the analysis of the epoch before has led to, if it has ended; tells refusals."""
        end = self._ended()
        if end is None:
            return None
        if end.mask is None:
            self._tell_refusal(end)
            return None
        return end.mask if (self._parts.network.masks.keep & ~end.mask.keep).any() else None

    def drop(self) -> None:
        """What is being decided about a state that training leaves is not applied."""
        self._resumed = None
        if self._parts.runner is not None:
            self._parts.runner.drop()

    def _ended(self) -> CycleEnd | None:
        if self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            return resumed
        runner, log = self._parts.runner, self._memory.log
        if runner is None or not runner.is_running:
            return None
        end = runner.collect(self._parts.config.analysis.max_wait_seconds)
        if end is None:
            log.note("An analysis needed longer than an epoch and the waiting time; it was applied later.")
        elif end.outcome is not None:
            log.decide(self._parts.network.anatomy, end.outcome)
        return end

    def _tell_refusal(self, end: CycleEnd) -> None:
        outcome, epoch, log = end.outcome, self._memory.epoch, self._memory.log
        if outcome is not None and outcome.status is CycleStatus.REJECTED:
            log.tell(epoch, "no_go", end.reason)
        elif outcome is None or outcome.status is CycleStatus.FAILED or outcome.is_late:
            log.tell(epoch, "skipped", end.reason, problem=True)
        else:
            _LOG.debug("epoch %d: %s", epoch, end.reason)

    def _analyze(self, durable: Callable[[], CheckpointRef]) -> None:
        parts, epoch = self._parts, self._memory.epoch
        if parts.runner is None or parts.pool is None:
            return
        # What is known now: nothing live is read while training goes on.
        situation, pool, allowed = parts.situation(), parts.pool, parts.network.cuttable_units()
        tracked = parts.tracker.evidence(TrainingPhase.at(epoch, parts.epochs))

        def analyst(checkpoint: CheckpointRef) -> Analyst:
            case = parts.saving.case(checkpoint, situation.keep, tracked)
            return analyst_of(case, situation, tracked.weights, allowed, parts.config, pool)

        parts.runner.start(durable, epoch, situation, analyst, parts.epochs)

    def _was_sound(self) -> bool:
        """Whether the last epoch did not report that the network has broken."""
        last = self._memory.log.records(self._parts.metric)[-1:]
        return bool(last) and (last[0].metric is None or math.isfinite(last[0].metric))
