"""The judgement of a mask on trial, and the way back from it."""

from __future__ import annotations

import math
from collections.abc import Callable

from esper.arrays import BoolArray
from esper.checkpoint import CheckpointRef
from esper.emrakul import (
    Baseline,
    EpochRecord,
    MaskEvent,
    RollbackReason,
    RollbackSettings,
    Strategy,
    Trial,
    Trigger,
    Watch,
    limits_for,
    should_roll_back,
)
from esper.emrakul.cycle import CycleRunner
from esper.errors import RollbackExhausted
from esper.kasmina import LiveNetwork
from esper.nissa import events
from esper.session.acting import Acting
from esper.session.log import RunLog
from esper.session.saving import Saving
from esper.session.terms import Terms
from esper.urabrask import level_of


class Judging:
    """Says what an epoch, or the end of the run, shows of a mask, and takes it back."""

    def __init__(
        self,
        trial: Trial,
        acting: Acting,
        runner: CycleRunner,
        network: LiveNetwork,
        saving: Saving,
        terms: Terms,
        log: RunLog,
        alarm: Callable[[str], None],
    ) -> None:
        """`alarm` keeps the state of now beside the run, and is told why."""
        self._trial, self._alarm = trial, alarm
        self._acting = acting
        self._runner = runner
        self._network = network
        self._saving = saving
        self._terms = terms
        self._log = log
        self._written: set[int] = set()
        """Steps of checkpoints whose weights somebody took from before a mask."""

    def records(self) -> list[EpochRecord]:
        """What every epoch has reported."""
        return self._log.records(self._terms.metric)

    def baseline(self, keep: BoolArray, sampling_noise: float) -> Baseline:
        """What later epochs are held against when this mask is applied.

        What an earlier mask did to the metric until it was taken back is not noise.

        Args:
            keep: the mask, shape [units].
            sampling_noise: relative error of what held-out data shows without it.
        """
        taken_back = self._log.taken_back()
        return Baseline.of(
            [record for record in self.records() if record.epoch not in taken_back],
            level_of(self._network.anatomy, self._network.masks.keep, keep),
            is_higher_better=self._terms.higher_is_better,
            sampling_noise=sampling_noise,
        )

    def of_epoch(self, is_measured: bool) -> MaskEvent | RollbackReason:
        """What the epoch that has just ended shows of the mask on trial."""
        changed = self._changed()
        shown = self._trial.event(self.records(), self._limits(), is_measured=is_measured)
        if changed is not None or not isinstance(shown, RollbackReason):
            return changed or shown
        return MaskEvent.UNMEASURED if self._is_of_training(shown) else shown

    def _is_of_training(self, reason: RollbackReason) -> bool:
        """Whether the metric fell for one epoch and what was measured before the mask does not.

        At a large learning rate a metric falls by itself, or because running statistics lag behind the
        weights; held-out data is measured with fresh ones.
        """
        watch, rules = self._trial.watch, self._terms.config.validation
        if not reason.is_sudden or watch is None or watch.before is None or rules.validation == "none":
            return False
        settled = self._trial.settled(self._network.masks.keep)
        verdict, is_within = self._acting.judge(settled, watch.before, watch.leeway)
        if is_within:
            self._log.tell(events.FellByItself(self._log.epoch, reason.text, verdict.reason))
        return is_within

    def of_run(self, watch: Watch) -> tuple[MaskEvent | RollbackReason, str]:
        """What held-out data shows of the mask that is still on trial when the run ends, and in words."""
        epoch, log = self._log.epoch, self._log
        if self._terms.config.validation.validation == "none":
            unmeasured = events.CutUnmeasured(watch.epoch)
            log.tell(unmeasured)
            return MaskEvent.PROVED, unmeasured.text
        if watch.before is None:  # of a run by an older version, which did not keep it
            text = f"Nothing was measured before the mask of epoch {watch.epoch}, so it cannot be judged."
            return RollbackReason(Trigger.VETO, epoch, math.nan, math.nan, text), text
        settled = self._trial.settled(self._network.masks.keep)
        verdict, is_within = self._acting.judge(settled, watch.before, watch.leeway)
        cost, why = verdict.retention, verdict.reason
        if is_within and cost is not None and cost.drop > cost.limit:
            why += f" That is over the limit by less than one standard error ({cost.noise:.3g}), so it stays."
        judged = events.Judged(epoch, self._terms.metric, watch.epoch, why)
        if is_within:
            log.tell(judged)
            return MaskEvent.PROVED, judged.text
        is_sound = self._acting.is_sound()
        drop, limit = (math.nan, math.nan) if cost is None else (cost.drop, cost.limit)
        trigger = Trigger.METRIC_DROP if is_sound else Trigger.NOT_FINITE
        return RollbackReason(trigger, epoch, drop, limit, judged.text), judged.text

    def note_writes(self) -> None:
        """Keeps in mind, before a period is saved, that its weights are from before a mask, if they are."""
        if self._network.masks.num_revived() and self._log.progress.step > self._saving.last_step:
            self._written.add(self._log.progress.step)

    def undo_writes(self) -> None:
        """Goes back to the newest other checkpoint if the weights are from before a mask, when a run ends.

        Elsewhere the next step makes their masked units zero, and training goes on from there.

        Raises:
            RollbackExhausted: they are, and no checkpoint verifies.
        """
        count, saving = self._network.masks.num_revived(), self._saving
        if count == 0:
            return
        saving.settle()
        target = saving.before(saving.last_step, Strategy.ATOMIC)
        while target.step in self._written:
            target = saving.before(target.step - 1, Strategy.ATOMIC)
        text = (
            f"{count} values under the mask are not zero when the run ends: somebody wrote into the weights "
            "(loaded the best ones, from before a mask?), and these still need the units that go now. Keep "
            "the best anew after every mask and cut."
        )
        self._log.tell(events.RolledBack(self._log.epoch, text, target.step))
        saving.return_to(target, as_rollback=True)

    def take_back(self, reason: RollbackReason, attempts: int | None = None) -> bool:
        """Takes back the mask on trial, or more.

        Args:
            reason: why.
            attempts: earlier rollbacks in a row that make it go further back; None: as many as there were.

        Returns:
            Whether everything went back to a checkpoint.
        """
        trial, epoch = self._trial, self._log.epoch
        watch, settled = trial.watch, trial.settled(self._network.masks.keep)
        strategy = trial.way_back(reason, attempts)
        if watch is not None and strategy is Strategy.ATOMIC:
            self._log.tell(events.RolledBack(epoch, reason.text, None))
            trial.happen(reason.trigger)
            self._acting.take_back(settled, watch.changes)
        else:
            try:
                target = self._checkpoint(watch, strategy)
            except RollbackExhausted as failure:
                trial.happen(reason.trigger)  # the mask stays, and is asked about no more
                self._alarm(str(failure))
                raise
            self._log.tell(events.RolledBack(epoch, reason.text, target.step))
            trial.happen(reason.trigger)
            self._saving.return_to(target, as_rollback=True)
            trial.went_back()
        # Rests and cool-downs count from where training goes on.
        self._runner.coordinator.record_rollback(self._log.epoch)
        self._saving.release_masks(base=trial.base_step)
        return strategy is not Strategy.ATOMIC

    def _checkpoint(self, watch: Watch | None, strategy: Strategy) -> CheckpointRef:
        """The one to go back to: without the mask, and for `PROGRESSIVE` as good as before it."""
        saving, limits = self._saving, self._limits()
        records = {record.epoch: record for record in self.records()}

        def passes(checkpoint: CheckpointRef) -> bool:
            record = records.get(checkpoint.epoch)
            if watch is None or record is None or record.metric is None:  # unmeasured is never good
                return False
            return should_roll_back([record], watch.baseline, limits) is None

        saving.settle()
        return saving.before(-1 if watch is None else watch.base_step, strategy, passes)

    def _changed(self) -> RollbackReason | None:
        """Why a network whose mask is on trial is no longer the one that was masked."""
        if broken := self._network.not_numbers():
            text = f"{broken} holds nan or infinite values."
            return RollbackReason(Trigger.NOT_FINITE, self._log.epoch, math.nan, 0.0, text)
        count, epoch = self._network.masks.num_revived(), self._log.epoch
        if count == 0:
            return None
        text = (
            f"{count} values under the mask are not zero in epoch {epoch}: somebody wrote into the weights "
            "(loaded others, or copies that are kept outside of an optimizer's state?) while the mask was on "
            "trial."
        )
        return RollbackReason(Trigger.STRUCTURE, epoch, count, 0.0, text)

    def _limits(self) -> RollbackSettings:
        terms, rules = self._terms, self._terms.config.pruning.rollback
        limits, note = limits_for(
            self.records(), rules, terms.metric, is_higher_better=terms.higher_is_better
        )
        if note:
            self._log.tell(events.LimitsRead(note))
        return limits
