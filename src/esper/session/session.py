"""A training run under Esper: three calls, and what happens between them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn
from torch.optim import Optimizer

from esper.anatomy import Cut
from esper.anatomy.structure import BoolArray, IntArray
from esper.checkpoint import CheckpointRef
from esper.emrakul import Baseline, RollbackReason, Status, Strategy
from esper.emrakul.cycle import Decision
from esper.errors import CheckpointMissing, ConfigError, EsperError, SurgeryError
from esper.leyline import Level
from esper.nissa import EpochRow
from esper.session.log import RunLog
from esper.session.parts import Memory, Parts, capture, restore
from esper.session.preview import confirm
from esper.session.trial import Watch

if TYPE_CHECKING:
    from esper.session.finish import Result

_LOG = logging.getLogger("esper")


class Session:
    """One training run. `end_epoch` after every epoch, `finish` once at the end.

    Made by `esper.attach` and `esper.resume`. Optimizer steps are counted by themselves; what Esper does is told on
    the logger "esper" (INFO), problems as WARNING.
    """

    def __init__(self, parts: Parts, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.parts = parts
        self.last_cut: Cut | None = None
        """The last cut of this process, with its proof."""
        self.seconds_in_esper = 0.0
        """How long training has waited for Esper."""
        self.started = clock()
        self._clock = clock
        self._memory = Memory()
        self._ready: Decision | None = None
        self._epoch_started = self.started
        self._hook = parts.network.optimizer.register_step_post_hook(self._count_step)
        self._is_finished = False
        if parts.why_off:
            self._say(parts.why_off, problem=True)
            self.log.note(parts.why_off)

    @property
    def model(self) -> nn.Module:
        """The user's network."""
        return self.parts.network.model

    @property
    def optimizer(self) -> Optimizer:
        """The user's optimizer."""
        return self.parts.network.optimizer

    @property
    def run_dir(self) -> Path:
        """Where checkpoints and the report are."""
        return self.parts.saving.store.run_dir

    @property
    def epoch(self) -> int:
        """Epochs that have ended."""
        return self._memory.epoch

    @property
    def step(self) -> int:
        """Optimizer steps made."""
        return self._memory.step

    @property
    def log(self) -> RunLog:
        """What happened so far."""
        return self._memory.log

    @property
    def removed_fraction(self) -> float:
        """Share of the original cost (FLOPs, or parameters where the target counts those) that is masked or cut."""
        return self.parts.removed_fraction()

    def end_epoch(self, **metrics: float) -> None:
        """Ends an epoch: judges the last mask, applies what was decided, saves, and starts the next analysis.

        Args:
            metrics: what was measured on held-out data, by name; the metric named in `esper.attach` must be there.
                `loss`, if given, serves to notice divergence.

        Raises:
            ConfigError: the metric is missing; nothing was changed and the call can be repeated.
            CheckpointError: the save before this one failed; training can go on, the next call saves again.
        """
        begun = self._clock()
        self._require_running()
        value = self._metric(metrics)
        self.parts.saving.check()
        self._memory.epoch += 1
        self._record(metrics, begun)
        is_measured = math.isfinite(value)
        if not is_measured:
            self._say(
                f"epoch {self.epoch}: {self.parts.metric} is {value}; nothing is pruned on that.",
                problem=True,
            )
        if self._judge():
            decision = self._cut_settled(self._collect())
            self._apply(decision if is_measured else None)
        self._save()
        if is_measured:
            self._start_cycle()
        self._epoch_started = self._clock()
        self.seconds_in_esper += self._epoch_started - begun

    def rollback(self, to_step: int | None = None) -> int:
        """Goes back to the checkpoint of `to_step`, or to the newest one that verifies; returns its step.

        Everything returns with it: weights, optimizer, schedulers, random state, masks, widths. Later checkpoints go.

        Raises:
            CheckpointMissing: there is no such checkpoint.
            CheckpointCorrupt: it is damaged.
        """
        self._require_running()
        saving = self.parts.saving
        saving.wait()
        target = saving.store.latest() if to_step is None else saving.store.catalog.at(to_step)
        if target is None:
            raise CheckpointMissing(
                f"{self.run_dir} holds no checkpoint that verifies, so there is nothing to go to."
            )
        self._forget_cycle()
        restore(self.parts, self._memory, target, as_rollback=True)
        self._memory.trial.watch = None
        self.log.mark(self.epoch, "rollback", f"Went back to step {target.step} by hand.")
        return target.step

    def finish(self, *, latency: bool = True) -> Result:
        """Cuts what is masked, measures, writes `report.html`, and lets go of the network.

        Args:
            latency: measure how much faster the network became (a few seconds).
        """
        from esper.session.finish import finish

        self._require_running()
        return finish(self, latency=latency)

    def detach(self) -> None:
        """Lets go of the network and the run directory without cutting; the run can be resumed."""
        if self._is_finished:
            return
        self._is_finished = True
        parts = self.parts
        self._hook.remove()
        parts.tracker.detach()
        parts.network.detach()
        parts.close_pool()
        if parts.runner is not None:
            parts.runner.close()
        parts.saving.close()

    def cut_masked(self) -> IntArray | None:
        """Cuts what is masked now.

        Returns:
            For every unit its new number or -1; None if nothing is masked, or the network refuses (it stays masked).
        """
        parts, network = self.parts, self.parts.network
        masked = network.masks.num_masked
        if masked == 0:
            return None
        try:
            made, numbers = network.cut_masked()
        except SurgeryError as refusal:
            self.log.note(f"The masks of epoch {self.epoch} stay masks: {refusal}")
            self._say(str(refusal), problem=True)
            return None
        self.last_cut = made
        parts.tracker.rebind(network.anatomy, network.named_parameters(), numbers)
        parts.saving.structure_changed(network)
        parts.saving.release_masks()
        share = 1 - made.parameters_after / made.parameters_before
        proof = made.equivalence
        exactness = proof.float32_error if proof.float64_error is None else proof.float64_error
        text = f"Cut {masked} units: {share:.1%} fewer parameters, equal to the masked network within {exactness:.1e}."
        self.log.mark(self.epoch, "cut", text)
        self._say(f"epoch {self.epoch}: {text}")
        return numbers

    def save_baseline(self) -> None:
        """Saves the state before the first step, pinned for good."""
        self.parts.saving.save(self.step, self.epoch, capture(self.parts, self._memory), pin="baseline")

    def save_final(self, more: Mapping[str, bytes]) -> None:
        """Saves the state after the last cut with further files, pinned for good, one step after the last save."""
        step = max(self.step, self.parts.saving.last_step + 1)
        self.parts.saving.save(step, self.epoch, capture(self.parts, self._memory), pin="final", more=more)

    def continue_from(self, target: CheckpointRef) -> None:
        """Resumes: restores a checkpoint and takes up the decision that was made, or was being made, about it."""
        restore(self.parts, self._memory, target, as_rollback=False)
        runner = self.parts.runner
        if runner is None or self.epoch == 0:
            return
        self._ready = self.parts.saving.decided(target, self.parts.network.anatomy)
        if self._ready is not None:
            runner.coordinator.state = self._ready.state
        else:
            self._analyze(lambda: target)

    def _metric(self, metrics: Mapping[str, float]) -> float:
        name = self.parts.metric
        if name not in metrics:
            given = ", ".join(metrics) or "nothing"
            raise ConfigError(
                f"end_epoch was not told {name!r} (it was told: {given}), and attach(metric={name!r}) says that "
                f"decisions are made by it. Call session.end_epoch({name}=...). Nothing was changed."
            )
        return float(metrics[name])

    def _record(self, metrics: Mapping[str, float], now: float) -> None:
        network = self.parts.network
        keep = network.masks.keep
        row = EpochRow(
            epoch=self.epoch,
            step=self.step,
            metrics={name: float(value) for name, value in metrics.items()},
            flops=network.anatomy.flops(keep),
            parameters=network.anatomy.parameters(keep),
            masked_units=network.masks.num_masked,
            seconds=now - self._epoch_started,
        )
        self.log.epochs.append(row)

    def _judge(self) -> bool:
        """Takes a mask back that costs too much. Returns: may pruning go on at this epoch's end?"""
        trial, parts = self._memory.trial, self.parts
        watch = trial.watch
        reason = trial.objection(self.log.records(parts.metric), parts.config.pruning.rollback)
        if reason is None or watch is None:
            return True
        self._roll_back(reason, watch, trial.failed(reason))
        return False

    def _roll_back(self, reason: RollbackReason, watch: Watch, strategy: Strategy) -> None:
        parts, epoch = self.parts, self.epoch
        self._forget_cycle()
        if parts.runner is not None:
            parts.runner.coordinator.record_rollback(epoch)
        if strategy is Strategy.ATOMIC:
            parts.network.masks.unmask()
            text = "the masks that were not cut yet were taken back exactly"
        else:
            parts.saving.wait()
            target = parts.saving.before(watch.base_step, strategy, self._memory.trial.rollbacks)
            restore(parts, self._memory, target, as_rollback=True)
            text = f"everything went back to the verified checkpoint of step {target.step}"
        parts.saving.release_masks()
        self.log.mark(epoch, "rollback", f"{reason.text} Therefore {text}.")
        self._say(f"epoch {epoch}: {reason.text} Therefore {text}.", problem=True)

    def _collect(self) -> Decision | None:
        """The decision about the epoch before, when there is one by now."""
        if self._ready is not None:
            ready, self._ready = self._ready, None
            return ready
        runner = self.parts.runner
        if runner is None or not runner.is_running:
            return None
        decision = runner.collect(self.parts.config.analysis.max_wait_seconds)
        if decision is None:
            self.log.note(
                "An analysis needed longer than an epoch and the waiting time; it was applied later."
            )
        elif decision.outcome is not None:
            self.log.decide(self.parts.network.anatomy, decision.outcome)
        return decision

    def _cut_settled(self, decision: Decision | None) -> Decision | None:
        """Cuts masks that have proved themselves; a decision about the masked network is carried over to the cut."""
        parts, trial = self.parts, self._memory.trial
        if not trial.is_settled(self.log.records(parts.metric), parts.config.pruning.rollback):
            return decision
        trial.passed()
        if parts.runner is not None:
            parts.runner.coordinator.record_settled(self.epoch)
        numbers = self.cut_masked()
        if numbers is None or decision is None or decision.keep is None:
            return decision
        return replace(decision, keep=_renumbered(decision.keep, numbers, parts.network.anatomy.num_units))

    def _apply(self, decision: Decision | None) -> None:
        """Masks what was accepted; records what was not."""
        if decision is None:
            return
        masks, anatomy = self.parts.network.masks, self.parts.network.anatomy
        if decision.keep is None:
            self._record_refusal(decision)
            return
        new = masks.keep & ~decision.keep
        if not new.any():
            return
        objection = self._confirm(decision.keep & masks.keep)
        if objection:
            self.log.mark(self.epoch, "no_go", f"Not applied, the weights have moved on: {objection}")
            self._say(f"epoch {self.epoch}: not applied, the weights have moved on: {objection}")
            return
        before = self.removed_fraction
        level = Level.highest(anatomy.groups[int(g)].kind.value for g in np.unique(anatomy.group_of[new]))
        masks.apply(decision.keep & masks.keep)
        records = self.log.records(self.parts.metric)
        baseline = Baseline.of(records, level, is_higher_better=self.parts.higher_is_better)
        self._memory.trial.watch = Watch(
            baseline, self.epoch, decision.is_on_probation, self.parts.saving.last_step
        )
        probation = " on probation" if decision.is_on_probation else ""
        removed = (
            f"{before:.1%} to {self.removed_fraction:.1%} of the {self.parts.config.pruning.cost} removed"
        )
        text = f"Masked {int(new.sum())} units{probation}, {removed}. {decision.reason}"
        self.log.mark(self.epoch, "mask", text)
        self._say(f"epoch {self.epoch}: {text}")

    def _confirm(self, keep: BoolArray) -> str:
        """Measures the mask on the live weights; '' if it may be applied (the running statistics then follow)."""
        parts = self.parts
        if parts.held_out is None or parts.config.validation.validation == "none":
            return ""
        objection, seen = confirm(parts.network, parts.held_out, keep, parts.config.validation)
        if not objection:
            seen.apply_statistics(parts.network.model)
        elif parts.runner is not None:
            parts.runner.coordinator.record_refusal()
        return objection

    def _record_refusal(self, decision: Decision) -> None:
        outcome = decision.outcome
        if outcome is not None and outcome.status is Status.REJECTED:
            self.log.mark(self.epoch, "no_go", decision.reason)
            self._say(f"epoch {self.epoch}: no go. {decision.reason}")
        elif outcome is None or outcome.status is Status.FAILED or outcome.is_late:
            self.log.mark(self.epoch, "skipped", decision.reason)
            self._say(f"epoch {self.epoch}: no pruning this cycle. {decision.reason}", problem=True)
        else:
            _LOG.debug("epoch %d: %s", self.epoch, decision.reason)

    def _save(self) -> None:
        saving = self.parts.saving
        if self.step <= saving.last_step:
            self.log.note(
                f"No optimizer step was made in epoch {self.epoch}, so there was nothing new to save."
            )
        else:
            saving.save(self.step, self.epoch, capture(self.parts, self._memory))

    def _start_cycle(self) -> None:
        runner = self.parts.runner
        if runner is not None and not runner.is_running and self.parts.saving.last_epoch == self.epoch:
            self._analyze(self.parts.saving.durable())

    def _analyze(self, durable: Callable[[], CheckpointRef]) -> None:
        network, runner = self.parts.network, self.parts.runner
        if runner is None:
            return
        keep: BoolArray = network.masks.keep.copy()
        tracked = tuple(float(score) for score in self.parts.tracker.taylor())
        analyst = self.parts.analyst(network.anatomy, keep, tracked)
        runner.start(durable, self.epoch, network.anatomy, keep, analyst)

    def _forget_cycle(self) -> None:
        """What was decided about a state that training leaves is not applied."""
        self._ready = None
        if self.parts.runner is not None:
            self.parts.runner.drop()

    def _count_step(self, *_: object) -> None:
        self._memory.step += 1

    def _require_running(self) -> None:
        if self._is_finished:
            raise EsperError("This session has ended. Attach again with another run_dir, or resume this one.")

    def _say(self, text: str, *, problem: bool = False) -> None:
        _LOG.log(logging.WARNING if problem else logging.INFO, text)


def _renumbered(keep: BoolArray, numbers: IntArray, num_units: int) -> BoolArray:
    left = np.ones(num_units, dtype=np.bool_)
    gone = numbers[~keep]
    left[gone[gone >= 0]] = False
    return left
