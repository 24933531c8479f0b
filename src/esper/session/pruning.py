"""What is done about masks when an epoch ends, and when the run does; `esper.emrakul.trial` decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.checkpoint import CheckpointRef
from esper.emrakul import (
    Action,
    MaskEvent,
    MaskState,
    RollbackReason,
    Trial,
    Trigger,
    Watch,
)
from esper.emrakul.cycle import PendingMask
from esper.errors import CheckpointError, ConfigError
from esper.kasmina import LiveNetwork
from esper.nissa import acts, events
from esper.session.acting import Acting, Confirmed
from esper.session.cycles import Cycles
from esper.session.judging import Judging
from esper.session.log import RunLog
from esper.session.recovery import Recovery
from esper.session.saving import TRIAL, Saving
from esper.session.spending import Spending
from esper.session.terms import Terms

if TYPE_CHECKING:
    from esper.session.assembly import Assembly

_FEW = 2
"""Steps that still fit into a run whose time is short."""


class Pruning:
    """The pruning of one session, from epoch to epoch.

    Attributes:
        acting: what it does to the network.
        cycles: what it has analyzed.
    """

    def __init__(
        self,
        trial: Trial,
        acting: Acting,
        cycles: Cycles,
        judging: Judging,
        recovery: Recovery,
        network: LiveNetwork,
        saving: Saving,
        terms: Terms,
        log: RunLog,
    ) -> None:
        self.acting = acting
        self.cycles = cycles
        self._trial = trial
        self._judging = judging
        self._recovery = recovery
        self._network = network
        self._saving = saving
        self._terms = terms
        self._log = log
        self._pending: PendingMask | None = None
        self._is_cut_due = False
        """Whether a mask has proved itself since the last cut."""

    @property
    def is_awaited(self) -> bool:
        """Whether a mask is there, or decided on, that is judged by what the next periods measure."""
        return self.cycles.is_running or self._trial.mask is not MaskState.NONE

    def end_epoch(self, is_measured: bool) -> bool:
        """Judges the mask on trial, or applies one that is pending.

        Args:
            is_measured: whether the epoch has a metric that is a number.

        Returns:
            Whether everything went back to a checkpoint; then there is nothing to save or to analyze.
        """
        trial = self._trial
        self._judging.note_writes()
        if trial.mask is MaskState.ON_TRIAL:
            shown = self._judging.of_epoch(is_measured)
            if isinstance(shown, RollbackReason):
                return self._take_back_if_written(shown)
            if trial.happen(shown) is Action.CUT:
                self._is_cut_due = True
                self.cycles.coordinator.record_settled(self._log.epoch)
        if trial.mask is MaskState.NONE:
            self._pending = self.cycles.accepted()
            if self._pending is not None:  # it counts units as they are: what has proved itself stays masked
                trial.happen(MaskEvent.ACCEPTED)
                trial.pending_step = self._pending.step
            elif self._is_cut_due and not self.cycles.is_running:  # an analysis counts them as they are, too
                self._is_cut_due = False
                self.acting.cut_if_worthwhile()
        if trial.mask is MaskState.PENDING and self._pending is not None:
            self._try(self._pending, is_measured)
        return False

    def end_run(self) -> str:
        """Judges what is on trial on the spot, and cuts what is masked.

        Returns:
            What held-out data showed of a mask that the metric has not seen often enough, in words.
        """
        trial, shown = self._trial, ""
        self.cycles.drop()
        self._judging.undo_writes()
        if trial.mask is MaskState.PENDING:
            self._log.tell(events.WaitedInVain())
            if self._pending is not None:
                self._log.not_applied(self._pending.epoch)
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
            CheckpointError: the audit cannot be written, so nothing was done.
        """
        if self._trial.mask is not MaskState.ON_TRIAL:
            raise ConfigError(
                "There is no mask on trial, so there is nothing to veto. `session.rollback(to_step)` "
                "goes back to any checkpoint."
            )
        self._log.tell(acts.Vetoed(self._log.epoch, why))
        reason = RollbackReason(Trigger.VETO, self._log.epoch, 1.0, 0.0, f"Vetoed: {why.rstrip('.')}.")
        self._take_back(reason)

    def went_back(self) -> None:
        """Training has gone back by hand: what was decided since then counts no longer."""
        self._trial.went_back()
        self._saving.release_masks(base=self._trial.base_step)
        self._pending, self._is_cut_due = None, False

    def make_way(self) -> str:
        """Lets something grow: cuts what has proved itself, and drops what is being decided.

        Returns:
            Why it cannot; '' if the network is whole and nothing is under way.
        """
        if self._trial.mask is not MaskState.NONE:
            state = "waits to be applied" if self._trial.mask is MaskState.PENDING else "is on trial"
            return f"a mask {state}, and one thing is tried at a time; ask again after the next epoch"
        if self.acting.cut() is not None:
            self.cycles.drop()  # it counts units as they were
        if masked := self._network.masks.num_masked:
            return f"{masked} unit(s) are masked, and the network's code does not let them be cut"
        self.cycles.drop()
        self._saving.release_masks()
        return ""

    def take_up(self, target: CheckpointRef) -> None:
        """After a resume: goes on with the decision that was, or was being, made about the checkpoint."""
        trial = self._trial
        if self.cycles.are_possible and trial.mask is MaskState.PENDING:
            self._pending = self.cycles.committed(trial.pending_step)
            if self._pending is None:
                trial.happen(MaskEvent.ABANDONED)
                self._log.tell(events.CommitLost())
        if trial.mask is MaskState.NONE:
            self.cycles.take_up(target)

    def start_cycle(self) -> None:
        """Starts the next analysis, unless a mask is under way: what it costs is not known yet.

        A network that still recovers makes every further unit look costly, and an analysis takes time from
        training. But where it would be too late afterwards, the last analysis is made beside the trial; and
        where few steps are left, one is made beside the second epoch of a probation.
        """
        mask = self._trial.mask
        is_urgent = self.cycles.is_last_call or (
            self._is_in_second_epoch and 0 < self.cycles.steps_left <= _FEW
        )
        if mask is MaskState.NONE or (mask is MaskState.ON_TRIAL and is_urgent):
            self.cycles.start()

    @property
    def _is_in_second_epoch(self) -> bool:
        """Whether a mask on probation has seen an epoch already."""
        watch = self._trial.watch
        return watch is not None and watch.is_on_probation and watch.epoch < self._log.epoch

    def _take_back(self, reason: RollbackReason) -> bool:
        """Takes back the mask on trial, or goes back further; returns whether to a checkpoint."""
        self.cycles.drop()  # what is being decided is about the mask that goes
        return self._judging.take_back(reason)

    def _take_back_if_written(self, reason: RollbackReason) -> bool:
        """The same where an epoch ends; it waits for another one if the audit does not take it."""
        try:
            return self._take_back(reason)
        except CheckpointError as error:
            if self._trial.mask is not MaskState.ON_TRIAL:  # it was begun, or there is nothing to go back to
                raise
            self._log.tell(acts.MaskNotWritten(str(error), "Taking back a mask"))
            return False

    def _try(self, mask: PendingMask, is_measured: bool) -> None:
        """Applies a pending mask, if this epoch has a metric to hold later ones against."""
        trial, terms, log = self._trial, self._terms, self._log
        if not is_measured:
            trial.happen(MaskEvent.UNMEASURED)
            log.tell(events.MaskWaits(terms.metric))
            return
        # A refusal is taken at its word while time is left for others. Later, the next one in a row has to be
        # sure of it; and so has one after which nothing else is decided.
        refusals, left = self.cycles.coordinator.state.schedule.refusals_in_row, self.cycles.steps_left
        in_doubt = left == 0 or (refusals > 0 and left <= _FEW)
        answer = self.acting.confirm(mask, in_doubt=in_doubt, is_last=left == 0)
        if answer.objection:
            self._pending = None
            trial.happen(MaskEvent.REFUSED)
            self.cycles.coordinator.record_refusal(mask.epoch)
            log.not_applied(mask.epoch)
            log.tell(events.RefusedLive(log.epoch, answer.objection))
            return
        try:
            log.tell(self._masked(mask, answer))
        except CheckpointError as error:  # what cannot be written down first is not done, and not lost
            log.tell(acts.MaskNotWritten(str(error)))
            return
        self._pending = None
        watch = self._watch(mask, answer)
        trial.happen(MaskEvent.CONFIRMED)
        trial.watch = watch
        self._recovery.before_mask()
        self.acting.apply(answer)

    def _masked(self, mask: PendingMask, answer: Confirmed) -> acts.Masked:
        """What is about to be done with a mask."""
        now, cost = self._terms.situation(self._network), self._terms.config.pruning.cost
        left = now.keep & answer.keep
        return acts.Masked(
            self._log.epoch,
            units=int((now.keep & ~answer.keep).sum()),
            planned=int((now.keep & ~mask.keep).sum()),
            is_on_probation=mask.is_on_probation or answer.is_in_doubt,
            removed_before=now.removed_fraction(cost),
            removed_after=now.under(left).removed_fraction(cost),
            cost=cost,
            reason=mask.reason + (f" On the weights of now: {answer.gave_way}" if answer.gave_way else ""),
            flops=now.anatomy.flops(left),
            parameters=now.anatomy.parameters(left),
        )

    def _watch(self, mask: PendingMask, answer: Confirmed) -> Watch:
        """What later epochs are held against; keeps the newest checkpoint, the last one without the mask."""
        before = answer.before
        return Watch(
            self._judging.baseline(answer.keep, 0.0 if before is None else before.relative_error),
            self._log.epoch,
            # On the last call a further epoch would be one too many.
            (mask.is_on_probation or answer.is_in_doubt) and not self.cycles.is_last_call,
            self._saving.hold(TRIAL),
            tuple((~self._network.masks.keep).nonzero()[0].tolist()),
            before,
            answer.changes,
            mask.plan.leeway if answer.gave_way else 1.0,
        )


def pruning_of(parts: Assembly, recovery: Recovery) -> Pruning:
    """The pruning of a session, every room of it with what it needs."""
    network, tracker, saving, runner = parts.network, parts.tracker, parts.saving, parts.runner
    trial, terms, log = parts.trial, parts.terms, parts.log
    spending = Spending(network, parts.copies, terms, log)
    acting = Acting(network, tracker, saving, parts.held_out, terms, log, spending)
    cycles = Cycles(runner, parts.pool, network, tracker, saving, terms, log, spending)
    judging = Judging(trial, acting, runner, network, saving, terms, log, parts.emergency.save)
    return Pruning(trial, acting, cycles, judging, recovery, network, saving, terms, log)
