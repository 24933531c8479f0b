"""What is done about masks when an epoch ends, and when the run does; `esper.emrakul.trial` decides."""

from __future__ import annotations

from esper.checkpoint import CheckpointRef
from esper.emrakul import (
    Action,
    Baseline,
    MaskEvent,
    MaskState,
    RollbackReason,
    Trigger,
    Watch,
)
from esper.emrakul.cycle import PendingMask
from esper.errors import ConfigError
from esper.session.acting import Acting, Confirmed
from esper.session.cycles import Cycles
from esper.session.judging import Judging
from esper.session.recovery import Recovery
from esper.session.saving import TRIAL
from esper.session.state import Memory, Parts
from esper.urabrask import level_of


class Pruning:
    """The pruning of one session, from epoch to epoch.

    Attributes:
        acting: what it does to the network.
        cycles: what it has analyzed.
    """

    def __init__(self, parts: Parts, memory: Memory, recovery: Recovery) -> None:
        self.acting = Acting(parts, memory)
        self.cycles = Cycles(parts, memory)
        self._judging = Judging(parts, memory, self.acting)
        self._recovery = recovery
        self._parts = parts
        self._memory = memory
        self._pending: PendingMask | None = None

    def end_epoch(self, is_measured: bool) -> bool:
        """Judges the mask on trial, or applies one that is pending.

        Args:
            is_measured: whether the epoch has a metric that is a number.

        Returns:
            Whether everything went back to a checkpoint; then there is nothing to save or to analyze.
        """
        trial = self._memory.trial
        if trial.state is MaskState.ON_TRIAL:
            shown = self._judging.of_epoch(is_measured)
            if isinstance(shown, RollbackReason):
                return self._judging.take_back(shown)
            if trial.happen(shown) is Action.CUT:
                self._proved()
        if trial.state is MaskState.NONE:
            self._pending = self.cycles.accepted()
            if self._pending is not None:
                trial.happen(MaskEvent.ACCEPTED)
                trial.pending_step = self._pending.step
        if trial.state is MaskState.PENDING and self._pending is not None:
            self._try(self._pending, is_measured)
        return False

    def end_run(self) -> str:
        """Judges what is on trial on the spot, and cuts what is masked.

        Returns:
            What held-out data showed of a mask that the metric has not seen often enough, in words.
        """
        trial, shown = self._memory.trial, ""
        self.cycles.drop()
        if trial.state is MaskState.PENDING:
            self._memory.log.tell_once(
                "When the run ended a mask was still waiting for an epoch with a metric: it was dropped."
            )
        if trial.happen(MaskEvent.RUN_ENDED) is Action.JUDGE and trial.watch is not None:
            end, shown = self._judging.of_run(trial.watch)
            if isinstance(end, RollbackReason):  # no further back than needed, whatever went before
                self._judging.take_back(end, attempts=0)
            else:
                trial.happen(end)
        self.acting.cut()
        return shown

    def veto(self, why: str) -> None:
        """Takes back the mask on trial, or goes back further after earlier rollbacks.

        Raises:
            ConfigError: no mask is on trial.
        """
        if self._memory.trial.state is not MaskState.ON_TRIAL:
            raise ConfigError(
                "There is no mask on trial, so there is nothing to veto. `session.rollback(to_step)` "
                "goes back to any checkpoint."
            )
        reason = RollbackReason(Trigger.VETO, self._memory.epoch, 1.0, 0.0, f"Vetoed: {why}")
        self._judging.take_back(reason)

    def forget(self) -> None:
        """Training has left its state: what was decided about it, or was on trial, counts no longer."""
        self._memory.trial.happen(MaskEvent.ABANDONED)
        self._pending = None

    def take_up(self, target: CheckpointRef) -> None:
        """After a resume: goes on with the decision that was, or was being, made about the checkpoint."""
        trial = self._memory.trial
        if self._parts.runner is not None and trial.state is MaskState.PENDING:
            self._pending = self.cycles.committed(trial.pending_step)
            if self._pending is None:
                self.forget()
                self._memory.log.tell_once(
                    "A mask was waiting to be applied, and its commit does not verify: it was dropped."
                )
        if trial.state is MaskState.NONE:
            self.cycles.take_up(target)

    def start_cycle(self) -> None:
        """Starts the next analysis, unless a mask is under way: what it costs is not known yet.

        A network that still recovers makes every further unit look costly, and an analysis takes time from
        training.
        """
        if self._memory.trial.state is MaskState.NONE:
            self.cycles.start()

    def _proved(self) -> None:
        if self._parts.runner is not None:
            self._parts.runner.coordinator.record_settled(self._memory.epoch)
        self.acting.cut_if_worthwhile()

    def _try(self, mask: PendingMask, is_measured: bool) -> None:
        """Applies a pending mask, if this epoch has a metric to hold later ones against."""
        trial, parts, log = self._memory.trial, self._parts, self._memory.log
        if not is_measured:
            trial.happen(MaskEvent.UNMEASURED)
            log.tell_once(f"A mask waits for an epoch in which {parts.metric} is measured.")
            return
        answer = self.acting.confirm(mask)
        self._pending = None
        if answer.objection:
            trial.happen(MaskEvent.REFUSED)
            if parts.runner is not None:
                parts.runner.coordinator.record_refusal(mask.epoch)
            why = f"Not applied, the weights have moved on: {answer.objection}"
            log.tell(self._memory.epoch, "no_go", why)
            return
        watch = self._watch(mask, answer)
        trial.happen(MaskEvent.CONFIRMED)
        trial.watch = watch
        self._apply(mask, answer)

    def _apply(self, mask: PendingMask, answer: Confirmed) -> None:
        parts, masked = self._parts, self._parts.network.masks.keep
        planned, before = int((masked & ~mask.keep).sum()), parts.removed_fraction()
        self._recovery.before_mask()
        self.acting.apply(answer)
        count = int((masked & ~answer.keep).sum())
        of = "" if count == planned else f" of {planned}"
        probation = " on probation" if mask.is_on_probation else ""
        shrunk = "" if count == planned else " The weights have moved on, so the plan was shrunk."
        removed = f"{before:.1%} to {parts.removed_fraction():.1%} of the {parts.config.pruning.cost} removed"
        text = f"Masked {count}{of} units{probation}, {removed}. {mask.reason}{shrunk}"
        self._memory.log.tell(self._memory.epoch, "mask", text)

    def _watch(self, mask: PendingMask, answer: Confirmed) -> Watch:
        """What later epochs are held against; keeps the newest checkpoint, the last one without the mask."""
        parts, keep = self._parts, self._parts.network.masks.keep
        level = level_of(parts.network.anatomy, keep, answer.keep)
        return Watch(
            Baseline.of(self._judging.records(), level, is_higher_better=parts.higher_is_better),
            self._memory.epoch,
            mask.is_on_probation,
            parts.saving.hold(TRIAL),
            tuple((~keep).nonzero()[0].tolist()),
            answer.before,
            answer.changes,
        )
