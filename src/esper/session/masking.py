"""What becomes of masks when an epoch ends: on trial, taken back, cut, followed by the next."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from esper.anatomy.cut import Cut
from esper.arrays import BoolArray, IntArray
from esper.checkpoint import CheckpointRef
from esper.emrakul import (
    Baseline,
    RollbackReason,
    RollbackSettings,
    Strategy,
    Trigger,
    Watch,
    should_roll_back,
)
from esper.emrakul.cycle import Analyst, CycleEnd, CycleStatus, PendingMask
from esper.emrakul.plan import shrink, worthwhile_cut
from esper.errors import ConfigError, SurgeryError
from esper.importance import TrainingPhase
from esper.kasmina import apply_statistics, confirm, recalibrate
from esper.runs.network import analyst_of
from esper.session.log import say
from esper.session.recovery import Recovery
from esper.session.saving import TRIAL
from esper.session.state import Memory, Parts, restore
from esper.urabrask import level_of

_LOG = logging.getLogger("esper")


class Masking:
    """The masks of one session; it acts on the live network, the decisions come from the coordinator.

    Attributes:
        last_cut: the last cut of this process, with its proof.
        recovery: learns of a mask before it is applied.
    """

    def __init__(self, parts: Parts, memory: Memory, recovery: Recovery) -> None:
        self.recovery = recovery
        self.last_cut: Cut | None = None
        self._parts = parts
        self._memory = memory
        self._ready: CycleEnd | None = None

    def end_epoch(self, is_measured: bool) -> bool:
        """Judges the mask on trial, cuts it if it has settled, and applies what was decided.

        Args:
            is_measured: whether the metric of this epoch is a number; nothing is applied on one that is not.

        Returns:
            Whether everything went back to a checkpoint; then there is nothing to save or to analyze.
        """
        records = self._memory.log.records(self._parts.metric)
        reason = self._memory.trial.objection(records, self._limits()) or self._revived()
        if reason is not None:
            return self._roll_back(reason)
        self._cut_settled()
        end = self._collect()
        if end is not None and is_measured:
            self._apply(end)
        return False

    def cut_masked(self, left: BoolArray | None = None) -> IntArray | None:
        """Cuts what is masked now, except for what `left` marks True.

        Returns:
            For every unit its new number or -1; None if nothing is masked, or the network refuses (it stays
            masked).
        """
        self.forget_cycle()
        parts, network = self._parts, self._parts.network
        masked = network.masks.num_masked
        if masked == 0:
            return None
        try:
            made, numbers = self._cut(left)
        except SurgeryError as refusal:
            self._stay_masked("The masks", refusal)
            return None
        self.last_cut = made
        parts.tracker.rebind(network.anatomy, network.named_parameters(), numbers)
        parts.saving.structure_changed(network)
        parts.saving.release_masks(but=parts.saving.last_step)
        share = 1 - made.parameters_after / made.parameters_before
        proof = made.equivalence
        exactness = proof.float32_error if proof.float64_error is None else proof.float64_error
        text = (
            f"Cut {masked - network.masks.num_masked} units: {share:.1%} fewer parameters, equal to the "
            f"masked network within {exactness:.1e}."
        )
        self._memory.log.mark(self._memory.epoch, "cut", text)
        say(f"epoch {self._memory.epoch}: {text}")
        return numbers

    def _cut(self, left: BoolArray | None) -> tuple[Cut, IntArray]:
        """Cuts; where layers cannot go together with the rest, the rest alone, and people are told."""
        network = self._parts.network
        layers = network.anatomy.is_layer & ~network.masks.keep
        layers = layers if left is None else layers & ~left
        try:
            return network.cut_masked(left)
        except SurgeryError as refusal:
            if not layers.any() or not (~network.masks.keep & ~layers).any():
                raise
            made = network.cut_masked(layers if left is None else left | layers)
            self._stay_masked(f"{layers.sum()} masked layer(s)", refusal)
            return made

    def _stay_masked(self, what: str, refusal: SurgeryError) -> None:
        self._memory.log.note(f"{what} of epoch {self._memory.epoch} stay masks: {refusal}")
        say(str(refusal), problem=True)

    def _last_epoch_was_measured(self) -> bool:
        records = self._memory.log.records(self._parts.metric)
        return bool(records) and records[-1].metric is not None and math.isfinite(records[-1].metric)

    def _limits(self) -> RollbackSettings:
        """The limits for a drop; a metric in per cent is noticed and judged as such."""
        parts, settings = self._parts, self._parts.config.pruning.rollback
        known = "metric_scale" in settings.model_fields_set or not parts.higher_is_better
        best = max(
            (r.metric for r in self._memory.log.records(parts.metric) if r.metric is not None), default=0.0
        )
        if known or not 1 < best < math.inf:
            return settings
        told = (
            f"{parts.metric} was {best:g}, so it is taken as per cent: a drop is judged on a scale of 100. "
            "pruning.rollback.metric_scale says what a perfect metric reads."
        )
        if told.partition(" was ")[0] not in {note.partition(" was ")[0] for note in self._memory.log.notes}:
            self._memory.log.note(told)
            say(told, problem=True)
        return settings.model_copy(update={"metric_scale": 100.0})

    def veto(self, why: str) -> None:
        """Takes back the mask on trial, or goes back further after earlier rollbacks.

        Raises:
            ConfigError: no mask is on trial.
        """
        if self._memory.trial.watch is None:
            raise ConfigError(
                "There is no mask on trial, so there is nothing to veto. `session.rollback(to_step)` "
                "goes back to any checkpoint."
            )
        self._roll_back(RollbackReason(Trigger.VETO, self._memory.epoch, 1.0, 0.0, f"Vetoed: {why}"))

    def _revived(self) -> RollbackReason | None:
        """Why a network whose mask is on trial is no longer the one that was masked."""
        if self._memory.trial.watch is None:
            return None
        count, epoch = self._parts.network.masks.num_revived(), self._memory.epoch
        if count == 0:
            return None
        text = (
            f"{count} values under the mask are not zero in epoch {epoch}: somebody wrote into the weights "
            "(loaded others?) while the mask was on trial."
        )
        return RollbackReason(Trigger.STRUCTURE, epoch, count, 0.0, text)

    def _roll_back(self, reason: RollbackReason) -> bool:
        """Takes back the mask on trial, or more. Returns: did everything go back to a checkpoint?"""
        parts, epoch, trial = self._parts, self._memory.epoch, self._memory.trial
        kept, changes = trial.settled(parts.network.anatomy.num_units), trial.changes
        passes = self._judge()
        base_step, strategy = trial.failed(reason)
        self.forget_cycle()
        if strategy is Strategy.ATOMIC:
            self._unmask(kept)
            parts.network.adjust(changes, sign=-1)
            if parts.held_out is not None:
                recalibrate(parts.network, parts.held_out)
            text = "the masks that had not proved themselves yet were taken back exactly"
        else:
            parts.saving.settle()
            target = parts.saving.before(base_step, strategy, passes)
            restore(parts, self._memory, target, as_rollback=True)
            text = f"everything went back to the verified checkpoint of step {target.step}"
        if parts.runner is not None:  # rests and cool-downs count from where training goes on
            parts.runner.coordinator.record_rollback(self._memory.epoch)
        parts.saving.release_masks()
        self._memory.log.mark(epoch, "rollback", f"{reason.text} Therefore {text}.")
        say(f"epoch {epoch}: {reason.text} Therefore {text}.", problem=True)
        return strategy is not Strategy.ATOMIC

    def _unmask(self, kept: BoolArray) -> None:
        """Brings units back, all but those that `kept` masks; what was seen of their zeros is forgotten."""
        network, tracker = self._parts.network, self._parts.tracker
        anatomy, masked = network.anatomy, network.masks.keep
        was_zero, is_zero = (~keep | anatomy.inside_removed(keep) for keep in (masked, kept))
        numbers = np.arange(anatomy.num_units)
        numbers[was_zero & ~is_zero] = -1
        network.masks.unmask(but=kept)
        tracker.rebind(network.anatomy, network.named_parameters(), numbers)

    def _judge(self) -> Callable[[CheckpointRef], bool]:
        """Tells of a checkpoint whether its network was as good as before the mask on trial, and measured."""
        watch, limits = self._memory.trial.watch, self._limits()
        records = {record.epoch: record for record in self._memory.log.records(self._parts.metric)}

        def passes(checkpoint: CheckpointRef) -> bool:
            found = records.get(checkpoint.epoch)
            if watch is None or found is None:
                return False
            return should_roll_back([found], watch.baseline, limits) is None

        return passes

    def _collect(self) -> CycleEnd | None:
        """The decision about the epoch before, when there is one by now."""
        if self._ready is not None:
            ready, self._ready = self._ready, None
            return ready
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

    def _cut_settled(self) -> None:
        """Cuts masks that have proved themselves. No analysis goes on while a mask is on trial."""
        parts, trial = self._parts, self._memory.trial
        if not trial.is_settled(self._memory.log.records(parts.metric), self._limits()):
            return
        trial.passed()
        if parts.runner is not None:
            parts.runner.coordinator.record_settled(self._memory.epoch)
        left = worthwhile_cut(parts.situation(), parts.config.pruning)
        if left is not None:
            self.cut_masked(left)

    def _apply(self, end: CycleEnd) -> None:
        """Masks what was accepted; records what was not."""
        masks, anatomy, decision = self._parts.network.masks, self._parts.network.anatomy, end.mask
        if decision is None:
            self._record_refusal(end)
            return
        new = masks.keep & ~decision.keep
        if not new.any():
            return
        keep, objection, changes = self._confirmed(decision)
        if objection:
            if self._parts.runner is not None:
                self._parts.runner.coordinator.record_refusal(decision.epoch)
            self._memory.log.mark(
                self._memory.epoch, "no_go", f"Not applied, the weights have moved on: {objection}"
            )
            say(f"epoch {self._memory.epoch}: not applied, the weights have moved on: {objection}")
            return
        planned, new = int(new.sum()), masks.keep & ~keep
        self.recovery.before_mask()
        before, base_step = self._parts.removed_fraction(), self._parts.saving.hold(TRIAL)
        level = level_of(anatomy, masks.keep, keep)
        settled = self._memory.trial.settled_before(masks.keep)
        self._parts.network.adjust(changes)
        masks.apply(keep)
        records = self._memory.log.records(self._parts.metric)
        baseline = Baseline.of(records, level, is_higher_better=self._parts.higher_is_better)
        self._memory.trial.watch = Watch(
            baseline, self._memory.epoch, decision.is_on_probation, base_step, settled
        )
        self._memory.trial.changes = changes
        probation = " on probation" if decision.is_on_probation else ""
        cost = self._parts.config.pruning.cost
        removed = f"{before:.1%} to {self._parts.removed_fraction():.1%} of the {cost} removed"
        count = f"{new.sum()}" if new.sum() == planned else f"{new.sum()} of {planned}"
        shrunk = "" if new.sum() == planned else " The weights have moved on, so the plan was shrunk."
        text = f"Masked {count} units{probation}, {removed}. {decision.reason}{shrunk}"
        self._memory.log.mark(self._memory.epoch, "mask", text)
        say(f"epoch {self._memory.epoch}: {text}")

    def _confirmed(self, decision: PendingMask) -> tuple[BoolArray, str, Mapping[str, Tensor]]:
        """The part of a mask that may be applied to the weights as they are now; see `_confirm`.

        A plan that costs too much here is shrunk as the validator shrinks it.
        """
        network, plan = self._parts.network, decision.plan
        keep: BoolArray = decision.keep & network.masks.keep
        objection, changes = self._confirm(keep)
        for _ in range(self._parts.config.pruning.plan.max_attempts - 1):
            if not objection:
                break
            plan = shrink(plan, self._parts.situation())
            if plan.is_empty:
                break
            keep = plan.keep & network.masks.keep
            objection, changes = self._confirm(keep)
        return keep, objection, changes

    def _confirm(self, keep: BoolArray) -> tuple[str, Mapping[str, Tensor]]:
        """Measures the mask on the live weights; '' if it may be applied (running statistics then follow).

        The second value says how weights that read what goes make up for it. Without validation nothing is
        an objection, and the rest is the same.
        """
        parts = self._parts
        if parts.held_out is None:
            return "", {}
        objection, seen = confirm(
            parts.network,
            parts.held_out,
            keep,
            parts.config.validation,
            reconstruct=parts.config.pruning.recovery.reconstruct,
        )
        if parts.config.validation.validation == "none":
            objection = ""
        if not objection:
            apply_statistics(parts.network.model, seen.statistics)
        return objection, seen.changes

    def _record_refusal(self, decision: CycleEnd) -> None:
        outcome = decision.outcome
        if outcome is not None and outcome.status is CycleStatus.REJECTED:
            self._memory.log.mark(self._memory.epoch, "no_go", decision.reason)
            say(f"epoch {self._memory.epoch}: no go. {decision.reason}")
        elif outcome is None or outcome.status is CycleStatus.FAILED or outcome.is_late:
            self._memory.log.mark(self._memory.epoch, "skipped", decision.reason)
            say(f"epoch {self._memory.epoch}: no pruning this cycle. {decision.reason}", problem=True)
        else:
            _LOG.debug("epoch %d: %s", self._memory.epoch, decision.reason)

    def take_up(self, target: CheckpointRef) -> None:
        """After a resume: goes on with the decision that was, or was being, made about the checkpoint."""
        parts = self._parts
        if parts.runner is None or not self._last_epoch_was_measured() or parts.saving.is_spent(target):
            return
        self._ready = parts.saving.decided(target, parts.network.anatomy)
        if self._ready is not None:
            parts.runner.coordinator.state = self._ready.state
        elif self._memory.trial.watch is None:
            self._analyze(lambda: target)

    def start_cycle(self) -> None:
        """Starts the next analysis, unless a mask is on trial: what it costs is not known yet.

        A network that still recovers makes every further unit look costly, and an analysis takes time from
        training.
        """
        runner = self._parts.runner
        if (
            runner is not None
            and not runner.is_running
            and self._memory.trial.watch is None
            and self._parts.saving.last_epoch == self._memory.epoch
        ):
            self._analyze(self._parts.saving.durable())

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

    def forget_cycle(self) -> None:
        """What was decided about a state that training leaves is not applied."""
        self._ready = None
        if self._parts.runner is not None:
            self._parts.runner.drop()
