"""What is done about masks when an epoch ends, and when the run does; `esper.emrakul.trial` decides."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from esper.checkpoint import CheckpointRef
from esper.emrakul import (
    Action,
    Baseline,
    EpochRecord,
    MaskEvent,
    MaskState,
    RollbackReason,
    RollbackSettings,
    Schedule,
    Strategy,
    Trigger,
    Watch,
    limits_for,
    should_roll_back,
)
from esper.emrakul.cycle import Analyst, CycleEnd, CycleStatus, PendingMask, why_missed
from esper.emrakul.plan import Situation, worthwhile_cut
from esper.errors import ConfigError
from esper.importance import TrainingPhase
from esper.report import MarkKind
from esper.runs.network import analyst_of
from esper.session.acting import Acting, Confirmed
from esper.session.log import say
from esper.session.recovery import Recovery
from esper.session.saving import TRIAL
from esper.session.state import Memory, Parts, restore
from esper.urabrask import level_of

_LOG = logging.getLogger("esper")
_REFUSALS: frozenset[MarkKind] = frozenset({"rollback", "no_go"})


class Pruning:
    """The pruning of one session, from epoch to epoch.

    Attributes:
        acting: what it does to the network.
    """

    def __init__(self, parts: Parts, memory: Memory, recovery: Recovery) -> None:
        self.acting = Acting(parts, memory)
        self._recovery = recovery
        self._parts = parts
        self._memory = memory
        self._resumed: CycleEnd | None = None
        self._pending: PendingMask | None = None

    def end_epoch(self, is_measured: bool) -> bool:
        """Judges the mask on trial, or applies one that is pending.

        Args:
            is_measured: whether the epoch has a metric that is a number.

        Returns:
            Whether everything went back to a checkpoint; then there is nothing to save or to analyze.
        """
        trial = self._memory.trial
        if trial.state is MaskState.ON_TRIAL and self._judge_epoch(is_measured):
            return True
        if trial.state is MaskState.NONE:
            self._collect()
        if trial.state is MaskState.PENDING and self._pending is not None:
            self._try(self._pending, is_measured)
        return False

    def end_run(self) -> str:
        """Judges what is on trial on the spot, and cuts what is masked.

        Returns:
            What the metric of the last epoch cannot know: what held-out data showed of a mask that came after
            it; '' if there was none.
        """
        self.drop_cycle()
        if self._memory.trial.state is MaskState.PENDING:
            self._note(
                "When the run ended a mask was still waiting for an epoch with a metric: it was dropped."
            )
        quality = ""
        if self._memory.trial.happen(MaskEvent.RUN_ENDED) is Action.JUDGE:
            quality = self._judge_at_the_end()
        self.acting.cut()
        return quality

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
        self._take_back(RollbackReason(Trigger.VETO, self._memory.epoch, 1.0, 0.0, f"Vetoed: {why}"))

    def forget(self) -> None:
        """Training has left its state: what was decided about it, or was on trial, counts no longer."""
        self._memory.trial.happen(MaskEvent.ABANDONED)
        self._pending = None

    def take_up(self, target: CheckpointRef) -> None:
        """After a resume: goes on with the decision that was, or was being, made about the checkpoint."""
        parts, trial = self._parts, self._memory.trial
        if parts.runner is None:
            return
        if trial.state is MaskState.PENDING:
            self._read_pending()
        if trial.state is not MaskState.NONE or parts.saving.is_spent(target) or not self._was_sound():
            return
        self._resumed = parts.saving.decided(target, parts.network.anatomy)
        if self._resumed is not None:
            parts.runner.coordinator.state = self._resumed.state
        else:
            self._analyze(lambda: target)

    def start_cycle(self) -> None:
        """Starts the next analysis, unless a mask is under way: what it costs is not known yet.

        A network that still recovers makes every further unit look costly, and an analysis takes time from
        training.
        """
        runner, saving = self._parts.runner, self._parts.saving
        is_free = runner is not None and not runner.is_running and self._memory.trial.state is MaskState.NONE
        if is_free and saving.last_epoch == self._memory.epoch:
            self._analyze(saving.durable())

    def why_missed(self) -> str:
        """Why the target was missed, and what to do about it; '' if it was met, or there is none."""
        parts, target = self._parts, self._parts.config.pruning.target
        if target is None:
            return ""
        removed = Situation.whole(parts.network.anatomy, parts.origin).removed_fraction(target.cost)
        if parts.runner is None:
            return f"The target was missed: nothing of the {target.cost} went. {parts.why_off}"
        refusals = [(mark.epoch, mark.text) for mark in self._memory.log.marks if mark.kind in _REFUSALS]
        schedule, state = Schedule(parts.config.pruning, parts.epochs), parts.runner.coordinator.state
        refused = refusals[-1] if refusals else None
        return why_missed(target, removed, self._memory.epoch, schedule, state, refused)

    # What an epoch shows of a mask on trial

    def _judge_epoch(self, is_measured: bool) -> bool:
        """Returns: did everything go back to a checkpoint?"""
        trial = self._memory.trial
        shown = trial.event(self._records(), self._limits(), is_measured=is_measured)
        if isinstance(shown, RollbackReason):
            return self._take_back(shown)
        revived = self._revived()
        if revived is not None:
            return self._take_back(revived)
        if trial.happen(shown) is Action.CUT:
            self._cut_proved()
        return False

    def _revived(self) -> RollbackReason | None:
        """Why a network whose mask is on trial is no longer the one that was masked."""
        count, epoch = self._parts.network.masks.num_revived(), self._memory.epoch
        if count == 0:
            return None
        text = (
            f"{count} values under the mask are not zero in epoch {epoch}: somebody wrote into the weights "
            "(loaded others?) while the mask was on trial."
        )
        return RollbackReason(Trigger.STRUCTURE, epoch, count, 0.0, text)

    def _cut_proved(self) -> None:
        if self._parts.runner is not None:
            self._parts.runner.coordinator.record_settled(self._memory.epoch)
        left = worthwhile_cut(self._parts.situation(), self._parts.config.pruning)
        if left is not None:
            self.acting.cut(left)

    def _take_back(self, reason: RollbackReason, *, only_mask: bool = False) -> bool:
        """Takes back the mask on trial, or more. Returns: did everything go back to a checkpoint?"""
        trial, epoch = self._memory.trial, self._memory.epoch
        watch, settled = trial.watch, trial.settled(self._parts.network.masks.keep)
        self.drop_cycle()
        trial.happen(reason.trigger)
        strategy = Strategy.ATOMIC if only_mask else trial.way_back(reason)
        if watch is not None and strategy is Strategy.ATOMIC:
            self.acting.take_back(settled, watch.changes)
            text = "the masks that had not proved themselves yet were taken back exactly"
        else:
            step = self._go_back(watch, strategy)
            text = f"everything went back to the verified checkpoint of step {step}"
        if self._parts.runner is not None:  # rests and cool-downs count from where training goes on
            self._parts.runner.coordinator.record_rollback(self._memory.epoch)
        self._parts.saving.release_masks()
        self._tell("rollback", f"{reason.text} Therefore {text}.", problem=True, epoch=epoch)
        return strategy is not Strategy.ATOMIC

    def _go_back(self, watch: Watch | None, strategy: Strategy) -> int:
        """Returns to a checkpoint without the mask; its step."""
        saving, limits = self._parts.saving, self._limits()
        records = {record.epoch: record for record in self._records()}

        def passes(checkpoint: CheckpointRef) -> bool:
            """Whether the network of a checkpoint was measured, and as good as before the mask."""
            record = records.get(checkpoint.epoch)
            if watch is None or record is None or record.metric is None:
                return False
            return should_roll_back([record], watch.baseline, limits) is None

        saving.settle()
        target = saving.before(-1 if watch is None else watch.base_step, strategy, passes)
        restore(self._parts, self._memory, target, as_rollback=True)
        return target.step

    # What a cycle has decided

    def _collect(self) -> None:
        """Takes up how the cycle of the epoch before has ended, if it has by now."""
        end = self._ended()
        if end is None:
            return
        if end.mask is None:
            self._tell_refusal(end)
        elif (self._parts.network.masks.keep & ~end.mask.keep).any():
            self._memory.trial.happen(MaskEvent.ACCEPTED)
            self._memory.trial.pending_step, self._pending = end.mask.step, end.mask

    def _ended(self) -> CycleEnd | None:
        if self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            return resumed
        runner = self._parts.runner
        if runner is None or not runner.is_running:
            return None
        end = runner.collect(self._parts.config.analysis.max_wait_seconds)
        if end is None:
            self._memory.log.note(
                "An analysis needed longer than an epoch and the waiting time; it was applied later."
            )
        elif end.outcome is not None:
            self._memory.log.decide(self._parts.network.anatomy, end.outcome)
        return end

    def _tell_refusal(self, end: CycleEnd) -> None:
        outcome = end.outcome
        if outcome is not None and outcome.status is CycleStatus.REJECTED:
            self._tell("no_go", end.reason)
        elif outcome is None or outcome.status is CycleStatus.FAILED or outcome.is_late:
            self._tell("skipped", end.reason, problem=True)
        else:
            _LOG.debug("epoch %d: %s", self._memory.epoch, end.reason)

    def _read_pending(self) -> None:
        """After a resume: reads the mask that was waiting, beside its checkpoint."""
        saving, trial = self._parts.saving, self._memory.trial
        bases = [c for c in saving.store.list().checkpoints if c.step == trial.pending_step]
        end = saving.decided(bases[0], self._parts.network.anatomy) if bases else None
        if end is not None:
            self._pending = end.mask
            return
        trial.happen(MaskEvent.ABANDONED)
        self._note("A mask was waiting to be applied, and its commit does not verify: it was dropped.")

    # Whether the live weights bear it

    def _try(self, mask: PendingMask, is_measured: bool) -> None:
        """Applies a pending mask, if this epoch has a metric to hold later ones against."""
        if not is_measured:
            self._memory.trial.happen(MaskEvent.UNMEASURED)
            self._note(f"A mask waits for an epoch in which {self._parts.metric} is measured.")
            return
        answer = self.acting.confirm(mask)
        self._pending = None
        if answer.objection:
            self._memory.trial.happen(MaskEvent.REFUSED)
            if self._parts.runner is not None:
                self._parts.runner.coordinator.record_refusal(mask.epoch)
            self._tell("no_go", f"Not applied, the weights have moved on: {answer.objection}")
            return
        watch = self._watch(mask, answer)
        self._memory.trial.happen(MaskEvent.CONFIRMED)
        self._memory.trial.watch = watch
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
        self._tell("mask", f"Masked {count}{of} units{probation}, {removed}. {mask.reason}{shrunk}")

    def _watch(self, mask: PendingMask, answer: Confirmed) -> Watch:
        """What later epochs are held against; keeps the newest checkpoint, the last one without the mask."""
        parts, keep = self._parts, self._parts.network.masks.keep
        level = level_of(parts.network.anatomy, keep, answer.keep)
        return Watch(
            Baseline.of(self._records(), level, is_higher_better=parts.higher_is_better),
            self._memory.epoch,
            mask.is_on_probation,
            parts.saving.hold(TRIAL),
            tuple((~keep).nonzero()[0].tolist()),
            answer.before,
            answer.changes,
        )

    # The end of the run

    def _judge_at_the_end(self) -> str:
        """Measures the mask that is still on trial; keeps it, or takes it back. Returns what was measured."""
        trial, epoch, metric = self._memory.trial, self._memory.epoch, self._parts.metric
        watch, settled = trial.watch, trial.settled(self._parts.network.masks.keep)
        if watch is None:
            return ""
        if self._parts.config.validation.validation == "none":
            trial.happen(MaskEvent.PROVED)
            text = f"The mask of epoch {watch.epoch} was cut unmeasured, because validation is switched off."
            self._note(text)
            return text
        if watch.before is None:  # a run of an older version, which did not keep it
            text = f"Nothing was measured before the mask of epoch {watch.epoch}, so it cannot be judged."
            self._take_back(RollbackReason(Trigger.VETO, epoch, 1.0, 0.0, text), only_mask=True)
            return text
        verdict, is_within = self.acting.judge(settled, watch.before)
        text = (
            f"{metric} was not measured often enough since the mask of epoch {watch.epoch}, so held-out data "
            f"judged it when the run ended: {verdict.reason}"
        )
        if is_within:
            trial.happen(MaskEvent.PROVED)
            self._tell("judged", text)
            return text
        cost, is_sound = verdict.retention, self.acting.is_sound()
        drop, limit = (math.nan, math.nan) if cost is None else (cost.drop, cost.limit)
        trigger = Trigger.METRIC_DROP if is_sound else Trigger.NOT_FINITE
        self._take_back(RollbackReason(trigger, epoch, drop, limit, text), only_mask=is_sound)
        return text

    # What all of this needs

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

    def drop_cycle(self) -> None:
        """What is being decided about a state that training leaves is not applied."""
        self._resumed = None
        if self._parts.runner is not None:
            self._parts.runner.drop()

    def _limits(self) -> RollbackSettings:
        parts = self._parts
        limits, note = limits_for(
            self._records(),
            parts.config.pruning.rollback,
            parts.metric,
            is_higher_better=parts.higher_is_better,
        )
        self._note(note)
        return limits

    def _records(self) -> list[EpochRecord]:
        return self._memory.log.records(self._parts.metric)

    def _was_sound(self) -> bool:
        """Whether the last epoch did not report that the network has broken."""
        last = self._records()[-1:]
        return bool(last) and (last[0].metric is None or math.isfinite(last[0].metric))

    def _note(self, text: str) -> None:
        """Tells people once."""
        if text and text not in self._memory.log.notes:
            self._memory.log.note(text)
            say(text, problem=True)

    def _tell(self, kind: MarkKind, text: str, *, problem: bool = False, epoch: int | None = None) -> None:
        """Marks the moment (now, unless `epoch` says otherwise), and tells people."""
        moment = self._memory.epoch if epoch is None else epoch
        self._memory.log.mark(moment, kind, text)
        say(f"epoch {moment}: {text}", problem=problem)
