"""A training run under Esper: three calls, and what happens between them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from esper.anatomy import Anatomy, Cut
from esper.anatomy.structure import BoolArray, IntArray
from esper.checkpoint import CheckpointRef, FileRef
from esper.checkpoint.trainer_state import Stateful
from esper.config import Config
from esper.emrakul import (
    Baseline,
    CoordinatorState,
    Origin,
    RollbackReason,
    Strategy,
    has_settled,
    should_roll_back,
    strategy_for,
)
from esper.emrakul.cycle import MASK, CycleRunner, Decision
from esper.emrakul.offline import OfflineAnalyst
from esper.errors import ConfigError, EsperError, SurgeryError
from esper.importance import ImportanceTracker
from esper.kasmina import LiveNetwork
from esper.leyline import Level
from esper.nissa import EpochRow
from esper.session.log import RunLog
from esper.session.saving import Saving

_LOG = logging.getLogger("esper")


@dataclass(frozen=True, eq=False)
class Watch:
    """A mask on trial: what was before it, and since when it is applied."""

    baseline: Baseline
    epoch: int
    is_on_probation: bool
    base_step: int
    """The checkpoint that the mask was decided from: the last one without it."""


@dataclass
class Parts:
    """What a session is made of; `esper.attach` and `esper.resume` put it together."""

    network: LiveNetwork
    tracker: ImportanceTracker
    saving: Saving
    runner: CycleRunner | None
    """None when pruning is off or nothing is held out to decide by."""
    analyst: Callable[[Anatomy, BoolArray, tuple[float, ...]], Callable[[CheckpointRef], OfflineAnalyst]]
    origin: Origin
    config: Config
    metric: str
    higher_is_better: bool
    epochs: int | None
    schedulers: Sequence[Stateful] = ()
    scaler: Stateful | None = None
    close_pool: Callable[[], None] = lambda: None
    why_off: str = ""


class Session:
    """One training run. `end_epoch` after every epoch, `finish` once at the end.

    Attributes:
        epoch: epochs that have ended.
        step: optimizer steps made.
        log: what happened so far.
    """

    def __init__(self, parts: Parts, log: RunLog | None = None) -> None:
        self._parts = parts
        self.log = log or RunLog()
        self.epoch = 0
        self.step = 0
        self.seconds_in_esper = 0.0
        self._watch: Watch | None = None
        self._rollbacks = 0
        self._ready: Decision | None = None
        self._started = time.perf_counter()
        self._epoch_started = self._started
        self._last_cut: Cut | None = None
        self._hook = parts.network.optimizer.register_step_post_hook(self._count_step)
        self._is_finished = False
        if parts.why_off:
            self._say(parts.why_off, problem=True)

    # --- what the user sees -------------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        return self._parts.network.model

    @property
    def optimizer(self) -> Optimizer:
        return self._parts.network.optimizer

    @property
    def run_dir(self) -> Path:
        return self._parts.saving.store.run_dir

    @property
    def network(self) -> LiveNetwork:
        return self._parts.network

    @property
    def parts(self) -> Parts:
        return self._parts

    @property
    def last_cut(self) -> Cut | None:
        return self._last_cut

    @property
    def started(self) -> float:
        return self._started

    def removed_fraction(self) -> float:
        """Share of the original cost (FLOPs, or parameters if the target counts those) that is masked or cut."""
        network, settings = self._parts.network, self._parts.config.pruning
        return self._parts.origin.removed_fraction(network.anatomy, network.masks.keep, settings.cost)

    def end_epoch(self, **metrics: float) -> None:
        """Ends an epoch: judges the last mask, applies what was decided, saves, and starts the next analysis.

        Args:
            metrics: what was measured on held-out data, by name; the metric named in `esper.attach` must be there.
                `loss`, if given, serves to notice divergence.

        Raises:
            ConfigError: the metric is missing; nothing was changed and the call can be repeated.
            CheckpointError: an earlier save failed; training can go on, and the state is saved again next time.
        """
        begun = time.perf_counter()
        self._require_running()
        value = self._metric(metrics)
        self._parts.saving.check()
        self.epoch += 1
        self._record(metrics, begun)
        if not math.isfinite(value):
            text = f"{self._parts.metric} is {value} at epoch {self.epoch}: unmeasured, so nothing is pruned on it."
            self._say(text, problem=True)
        if self._judge():
            decision = self._collect()
            self._cut_settled(decision)
            self._apply(decision if math.isfinite(value) else None)
        self._save()
        if math.isfinite(value):
            self._start_cycle()
        self.seconds_in_esper += time.perf_counter() - begun
        self._epoch_started = time.perf_counter()

    def rollback(self, to_step: int | None = None) -> int:
        """Goes back: to the checkpoint of `to_step`, or to the newest one that verifies. Returns its step.

        Everything returns with it: weights, optimizer, schedulers, random state, masks, widths. Later checkpoints go.
        """
        self._parts.saving.wait()
        store = self._parts.saving.store
        target = store.latest() if to_step is None else store.catalog.at(to_step)
        if target is None:
            raise EsperError(f"{self.run_dir} holds no checkpoint that verifies, so there is nothing to go back to.")
        self._restore(target)
        self.log.mark(self.epoch, "rollback", f"Went back to step {target.step} by hand.")
        return target.step

    def detach(self) -> None:
        """Lets go of the network and the run directory without cutting; the network stays as it is."""
        if not self._is_finished:
            self._is_finished = True
            self._hook.remove()
            self._parts.tracker.detach()
            self._parts.network.detach()
            if self._parts.runner is not None:
                self._parts.runner.drop()
            self._parts.close_pool()
            if self._parts.runner is not None:
                self._parts.runner.close()
            self._parts.saving.close()

    def finish(self, *, latency: bool = True) -> Any:
        """Cuts what is masked, measures, writes `report.html`, and lets go of the network; see `Result`."""
        from esper.session.finish import finish

        self._require_running()
        return finish(self, latency=latency)

    # --- what an epoch's end is made of ---------------------------------------------------------------------------

    def _metric(self, metrics: Mapping[str, float]) -> float:
        name = self._parts.metric
        if name not in metrics:
            given = ", ".join(metrics) or "nothing"
            raise ConfigError(
                f"end_epoch was not told {name!r} (it was told: {given}), and attach(metric={name!r}) says that "
                f"decisions are made by it. Call session.end_epoch({name}=...). Nothing was changed."
            )
        return float(metrics[name])

    def _record(self, metrics: Mapping[str, float], now: float) -> None:
        network = self._parts.network
        keep = network.masks.keep
        self.log.epochs.append(
            EpochRow(
                epoch=self.epoch,
                step=self.step,
                metrics={name: float(value) for name, value in metrics.items()},
                flops=network.anatomy.flops(keep),
                parameters=network.anatomy.parameters(keep),
                masked_units=network.masks.num_masked,
                seconds=now - self._epoch_started,
            )
        )

    def _since_mask(self) -> list[Any]:
        start = self._watch.epoch if self._watch else self.epoch
        return [record for record in self.log.records(self._parts.metric) if record.epoch > start]

    def _judge(self) -> bool:
        """Takes a mask back that costs too much. Returns: may pruning go on in this epoch?"""
        if self._watch is None:
            return True
        reason = should_roll_back(self._since_mask(), self._watch.baseline, self._parts.config.pruning.rollback)
        if reason is None:
            return True
        self._roll_back(reason, self._watch)
        return False

    def _roll_back(self, reason: RollbackReason, watch: Watch) -> None:
        strategy = strategy_for(reason, self._rollbacks)
        self._rollbacks += 1
        if self._parts.runner is not None:
            self._parts.runner.drop()
            self._parts.runner.coordinator.record_rollback(self.epoch)
        epoch = self.epoch
        if strategy is Strategy.ATOMIC:
            self._parts.network.masks.unmask()
            text = "the masks that were not cut yet were taken back exactly"
        else:
            self._parts.saving.wait()
            target = self._parts.saving.before(watch.base_step, strategy, self._rollbacks)
            self._restore(target, keep_coordinator=True)
            text = f"went back to the verified checkpoint of step {target.step}"
        self._watch = None
        self._parts.saving.release_masks()
        self.log.mark(epoch, "rollback", f"{reason.text} Therefore {text}.")
        self._say(f"epoch {epoch}: {reason.text} Therefore {text}.", problem=True)

    def _collect(self) -> Decision | None:
        if self._ready is not None:
            decision, self._ready = self._ready, None
            return decision
        runner = self._parts.runner
        if runner is None or not runner.is_running:
            return None
        decision = runner.collect(self._parts.config.analysis.max_wait_seconds)
        if decision is None:
            self.log.note(f"The analysis of epoch {self.epoch - 1} needed longer than an epoch; it is applied later.")
        elif decision.outcome is not None:
            self.log.decide(self._parts.network.anatomy, decision.outcome)
        return decision

    def _cut_settled(self, decision: Decision | None) -> None:
        """Cuts masks that have proved themselves; a decision about the masked network is carried over."""
        watch = self._watch
        settings = self._parts.config.pruning.rollback
        if watch is None or not has_settled(
            self._since_mask(), watch.baseline, settings, is_on_probation=watch.is_on_probation
        ):
            return
        self._rollbacks = 0
        if self._parts.runner is not None:
            self._parts.runner.coordinator.record_settled(self.epoch)
        self._watch = None
        numbers = self.cut_masked()
        if numbers is not None and decision is not None and decision.keep is not None:
            object.__setattr__(decision, "keep", _renumbered(decision.keep, numbers, self.network.anatomy.num_units))

    def cut_masked(self) -> IntArray | None:
        """Cuts what is masked; None if nothing is, or if the network refuses (it stays masked then)."""
        network = self._parts.network
        if network.masks.num_masked == 0:
            return None
        before = network.anatomy.parameters()
        masked = network.masks.num_masked
        try:
            made, numbers = network.cut_masked()
        except SurgeryError as error:
            self.log.note(f"The masks of epoch {self.epoch} stay masks: {error}")
            self._say(str(error), problem=True)
            return None
        self._last_cut = made
        self._parts.tracker.rebind(network.anatomy, network.named_parameters(), numbers)
        self._parts.saving.structure_changed(network)
        self._parts.saving.release_masks()
        share = 1 - made.parameters_after / before
        error = made.equivalence.float64_error
        shown = f"{made.equivalence.float32_error:.1e}" if error is None else f"{error:.1e}"
        text = f"Cut {masked} units: {share:.1%} fewer parameters; equal to the masked network within {shown}."
        self.log.mark(self.epoch, "cut", text)
        self._say(f"epoch {self.epoch}: {text}")
        return numbers

    def _apply(self, decision: Decision | None) -> None:
        """Masks what was accepted; records what was not."""
        if decision is None:
            return
        network = self._parts.network
        if decision.keep is None:
            self._record_refusal(decision)
            return
        touched = np.unique(network.anatomy.group_of[network.masks.keep & ~decision.keep])
        level = Level.highest(network.anatomy.groups[int(g)].kind.value for g in touched)
        before = self.removed_fraction()
        count = int((network.masks.keep & ~decision.keep).sum())
        network.masks.apply(decision.keep & network.masks.keep)
        baseline = Baseline.of(
            self.log.records(self._parts.metric), level, is_higher_better=self._parts.higher_is_better
        )
        self._watch = Watch(baseline, self.epoch, decision.is_on_probation, self._parts.saving.last_step)
        probation = " on probation" if decision.is_on_probation else ""
        text = f"Masked {count} units{probation}: {before:.1%} to {self.removed_fraction():.1%} of the cost gone. "
        self.log.mark(self.epoch, "mask", text + decision.reason)
        self._say(f"epoch {self.epoch}: {text}{decision.reason}")

    def _record_refusal(self, decision: Decision) -> None:
        outcome = decision.outcome
        if outcome is not None and outcome.status.value == "rejected":
            self.log.mark(self.epoch, "no_go", decision.reason)
            self._say(f"epoch {self.epoch}: no go. {decision.reason}")
        elif outcome is None or outcome.status.value == "failed" or outcome.is_late:
            self.log.mark(self.epoch, "skipped", decision.reason)
            self._say(f"epoch {self.epoch}: no pruning this cycle. {decision.reason}", problem=True)
        else:
            _LOG.debug("epoch %d: %s", self.epoch, decision.reason)

    def _start_cycle(self) -> None:
        runner = self._parts.runner
        if runner is None or runner.is_running or self._parts.saving.last_epoch != self.epoch:
            return
        self._analyze(self._parts.saving.durable())

    def _analyze(self, durable: Callable[[], CheckpointRef]) -> None:
        network, runner = self._parts.network, self._parts.runner
        if runner is not None:
            keep: BoolArray = network.masks.keep.copy()
            tracked = tuple(float(score) for score in self._parts.tracker.taylor())
            analyst = self._parts.analyst(network.anatomy, keep, tracked)
            runner.start(durable, self.epoch, network.anatomy, keep, analyst)

    # --- saving and restoring -------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.step == self._parts.saving.last_step:
            self.log.note(f"No optimizer step was made in epoch {self.epoch}, so there was nothing new to save.")
            return
        self._parts.saving.save(self.step, self.epoch, self._extra())

    def save_baseline(self) -> None:
        """Saves the state before the first step, pinned for good."""
        self._parts.saving.save(self.step, self.epoch, self._extra(), pin="baseline")

    def save_final(self, more: Mapping[str, bytes]) -> None:
        """Saves the state after the last cut, pinned for good; its step is one later if the last one is taken."""
        taken = self.step <= self._parts.saving.last_step
        self._parts.saving.save(self.step + taken, self.epoch, self._extra(), pin="final", more=more)

    def _extra(self) -> dict[str, Any]:
        parts = self._parts
        return {
            "parameter_names": parts.network.parameter_names(),
            "cuts": [past.record() for past in parts.network.cuts],
            "keep": parts.network.masks.keep,
            "originals": parts.network.masks.originals(),
            "tracker": parts.tracker.state(),
            "coordinator": parts.runner.coordinator.state.to_json() if parts.runner else None,
            "origin": parts.origin.to_json(),
            "log": self.log.to_json(),
            "watch": _watch_to_json(self._watch),
            "rollbacks": self._rollbacks,
            "epochs_planned": parts.epochs,
            "metric": parts.metric,
            "higher_is_better": parts.higher_is_better,
            "config": parts.config.model_dump_json(),
        }

    def _restore(self, target: CheckpointRef, *, keep_coordinator: bool = False) -> None:
        """Puts network, optimizer and everything around them into the state of a checkpoint."""
        parts = self._parts
        state = parts.saving.read(target)
        extra = state.extra
        network = parts.network
        network.take_back_cuts(_common_cuts(network, extra["cuts"]))
        network.make_cuts(extra["cuts"][len(network.cuts) :])
        network.renew_masks()
        parts.saving.restore(state, network, parts.schedulers, parts.scaler)
        network.masks.apply(np.asarray(extra["keep"]), extra["originals"])
        nothing = np.full(parts.tracker.num_units, -1, np.int64)
        parts.tracker.rebind(network.anatomy, network.named_parameters(), nothing)
        parts.tracker.load_state(extra["tracker"])
        if parts.runner is not None and not keep_coordinator and extra["coordinator"] is not None:
            parts.runner.coordinator.state = CoordinatorState.from_json(extra["coordinator"])
        marks = self.log.marks
        self.log = RunLog.from_json(extra["log"])
        self.log.marks.extend(mark for mark in marks if mark not in self.log.marks)
        self.step, self.epoch = state.step, state.epoch
        self._watch = _watch_from_json(extra["watch"])
        self._ready = None
        parts.saving.structure_changed(network)
        parts.saving.returned_to(target)

    def continue_from(self, target: CheckpointRef) -> None:
        """Resumes: restores a checkpoint, and takes up the decision that was made or being made about it."""
        self._restore(target)
        runner = self._parts.runner
        if runner is None or self.epoch == 0:
            return
        self._ready = self._parts.saving.decided(target, self._parts.network.anatomy)
        if self._ready is not None:
            runner.coordinator.state = self._ready.state
        else:
            self._analyze(lambda: target)

    # --- small things ---------------------------------------------------------------------------------------------

    def _count_step(self, *_: object) -> None:
        self.step += 1

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


def _common_cuts(network: LiveNetwork, records: Sequence[Mapping[str, Any]]) -> int:
    """How many of the network's cuts the records begin with."""
    count = 0
    for past, record in zip(network.cuts, records, strict=False):
        if past.record() != dict(record):
            break
        count += 1
    return count


def _watch_to_json(watch: Watch | None) -> dict[str, Any] | None:
    if watch is None:
        return None
    baseline = {**vars(watch.baseline), "level": watch.baseline.level.value}
    return {**vars(watch), "baseline": baseline}


def _watch_from_json(data: Mapping[str, Any] | None) -> Watch | None:
    if data is None:
        return None
    baseline = Baseline(**{**data["baseline"], "level": Level(data["baseline"]["level"])})
    return Watch(**{**data, "baseline": baseline})


__all__ = ["MASK", "FileRef", "Parts", "Session", "Watch"]
