"""A training run under Esper: three calls, and what happens between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from esper.checkpoint import CheckpointRef
from esper.errors import CheckpointMissing, EsperError
from esper.kasmina.seeds import GateResult, Isolation
from esper.nissa import acts, events, seed_events
from esper.report import EpochRow
from esper.session.admission import check_processes
from esper.session.assembly import Assembly
from esper.session.commands import desk_of
from esper.session.growing import Growing
from esper.session.grown import parts_grown
from esper.session.metrics import Metric
from esper.session.pruning import pruning_of
from esper.session.recovery import Recovery
from esper.session.rounds import Rounds
from esper.session.soundness import Soundness
from esper.session.telemetry import cost_of

if TYPE_CHECKING:
    from esper.session.finish import Result


class Session:
    """One training run. `end_epoch` after every epoch, or `end_step` after every step; `finish` at the end.

    Made by `esper.attach` and `esper.resume`. Optimizer steps are counted by themselves; what Esper does is
    told on the logger "esper" (INFO), problems as WARNING.
    """

    def __init__(self, parts: Assembly, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.parts = parts
        self.network = parts.network
        """The user's network as Esper sees it: its structure, its mask, and what was done to it."""
        self.log = parts.log
        """What happened so far."""
        self.seconds_in_esper = 0.0
        """How long training has waited for Esper."""
        self.started = clock()
        self._clock = clock
        self.recovery = Recovery(parts.terms.config.pruning.recovery, parts.network, parts.saving, parts.log)
        self.teaching = parts.teaching
        """Who teaches the network: `teaching.change(...)` lets somebody else, or nobody (None)."""
        self.pruning = pruning_of(parts, self.recovery)
        self._soundness = Soundness(parts.network, self.pruning.acting, parts.saving, parts.terms, parts.log)
        parts.growing.make_way = self.pruning.make_way
        self._epoch_started = self.started
        self._metrics = parts.metrics
        self._desk = desk_of(self)
        given = parts.network.model, parts.network.optimizers
        self._rounds = Rounds(*given, self._count_step, self.log.tell)
        self._is_finished = False
        self._is_first_step = True
        """Whether the next optimizer step is the first since the end of a period."""
        if parts.why_off:
            self.log.tell(events.PruningOff(parts.why_off))

    @property
    def model(self) -> nn.Module:
        """The user's network, as it was given."""
        return self.parts.network.given

    @property
    def optimizer(self) -> Optimizer:
        """The user's optimizer."""
        return self.parts.network.optimizer

    @property
    def metric(self) -> str:
        """The name of what decisions are made by."""
        return self.parts.terms.metric

    @property
    def run_dir(self) -> Path:
        """Where checkpoints and the report are."""
        return self.parts.saving.store.run_dir

    @property
    def epoch(self) -> int:
        """Epochs that have ended; in a run that is counted in steps, periods of them."""
        return self.log.epoch

    @property
    def step(self) -> int:
        """Optimizer steps made."""
        return self.log.progress.step

    @property
    def is_due(self) -> bool:
        """Whether the next `end_step` ends a period."""
        rows = self.log.epochs
        return self.parts.terms.pace.is_over(self.step, rows[-1].step if rows else 0)

    @property
    def removed_fraction(self) -> float:
        """Share of the original cost (FLOPs, or parameters if the target counts those) masked or cut."""
        return self.parts.terms.removed_fraction(self.parts.network)

    def loss(self, output: Any, target: Any, inputs: Any = None) -> Tensor:
        """The loss of one training step: `loss(output, target)`, and what a teacher adds to it.

        A teacher (`attach(teacher=...)`) sees the same inputs, and a share of the loss is how far the output
        is from its answer. So does, with `pruning.recovery.distill`, the run's network from before the first
        mask, for some epochs after every mask. Seeds that are on their way (`grow`) have their lesson here.

        Args:
            output: what the network returned.
            target: as for the given loss.
            inputs: what the network was called with: a tensor, several in a tuple, or a mapping of keywords.

        Raises:
            ConfigError: somebody teaches, or a seed is on its way, and `inputs` is missing.
            EvidenceError: `inputs` are not built like the `sample` that was given to `attach`.
        """
        own = self.recovery.loss(output, target, inputs)
        value = self.parts.teaching.loss(own, output, target, inputs)
        self.parts.growing.teach(value, target, inputs)
        return value

    def grow(
        self,
        path: str,
        blueprint: str = "auto",
        *,
        isolation: Isolation | None = None,
        lr: float | None = None,
        **options: Any,
    ) -> GateResult:
        """Germinates a seed on the output of the module at `path`: f in `y = h + f(h)`, zero at birth.

        It learns apart, in steps whose loss comes from `Session.loss`; gates decide from epoch to epoch
        whether it is kept (docs/growing.md). While it is on its way nothing is pruned.

        Args:
            path: of the module, as `model.named_modules()` names it.
            blueprint: what the seed is.
            isolation: for this seed, instead of `growing.isolation`.
            lr: its learning rate; otherwise that of the host, whatever a scheduler makes of it.
            options: of the blueprint.

        Returns:
            What G0 said. Where it is closed nothing was changed; it is while a mask waits or is on trial.

        Raises:
            IllegalTransitionError: there is a seed at this place, or none may be germinated there yet.
            ConfigError: the path or the blueprint is unknown or fails, or there is no held-out data.
        """
        self._require_running()
        return self.growing.grow(path, blueprint, isolation=isolation, lr=lr, **options)

    @property
    def growing(self) -> Growing:
        """The seeds of this session: `print` it, or try several out at once (`try_out`)."""
        return self.parts.growing

    def end_epoch(self, **metrics: Metric) -> None:
        """Ends an epoch: judges the last mask, applies what was decided, saves, and starts the next analysis.

        Args:
            metrics: what was measured on held-out data, by name. Decisions are made by the one that
                `esper.attach` names; None, or a call without it, says that nobody measured it in this epoch:
                decisions then wait for one in which it is. `loss`, if given, serves to notice divergence.

        Raises:
            ConfigError: others than the one that `attach` names were given, or something that is no number;
                nothing was changed and the call can be repeated.
            RollbackExhausted: the network must go back and no checkpoint verifies; it was left as it is.
            CheckpointError: a save failed. The epoch has ended all the same: training can go on, and the next
                call saves again.
        """
        self._require_running()
        self.parts.terms.pace.require_epochs()
        begun = self._clock()
        self._metrics.report(metrics, self.step, is_over=True)
        with self.network.attended():
            self._end_period(begun)

    def end_step(self, **metrics: Metric) -> bool:
        """Ends an optimizer step, and with every `every_n_steps`-th a period: what an epoch is elsewhere.

        A metric may come with any step and counts for the period in which it comes; the last one holds. One
        that is given as a function is measured only where a period ends. Periods in which nobody measures
        decide nothing. What is raised is what `end_epoch` raises.

        Returns:
            Whether a period has ended, so that everything that `end_epoch` does was done.
        """
        self._require_running()
        self.parts.terms.pace.require_steps()
        begun, is_over = self._clock(), self.is_due
        self._metrics.report(metrics, self.step, is_over=is_over)
        if is_over:
            with self.network.attended():
                self._end_period(begun)
        return is_over

    def _end_period(self, begun: float) -> None:
        """What happens where decisions are made: see `end_epoch`."""
        check_processes(self.parts.network.given, self.optimizer)  # it may have been wrapped since
        failure = self.parts.saving.failure()
        self.recovery.end_epoch()
        self.parts.teaching.end_epoch()
        self.parts.emergency.end_epoch()
        self.log.progress.epoch += 1
        numbers = self._record(begun)
        self.parts.growing.end_epoch(self.parts.terms.epochs_left(self.epoch))
        if self.parts.pool is not None:  # otherwise nothing is planned
            self.parts.horizon.look()
        if not self.pruning.end_epoch(is_measured=self._soundness.end_epoch(numbers)):
            self._soundness.keep()
            self.parts.tracker.end_epoch(self.epoch, self.parts.network.masks.keep)
            self.parts.strategy.act()
            self._save()
            if self._soundness.is_whole and self._may_prune():
                self.pruning.start_cycle()
        self._desk.carry_out()
        self._is_first_step = True
        self._rounds.end()
        self._epoch_started = self._clock()
        self.seconds_in_esper += self._epoch_started - begun
        self.parts.telemetry.end_epoch(self.epoch, self._epoch_started - begun, numbers)
        failure = failure or self.parts.saving.failure()
        if failure is not None:
            self.log.tell(events.SaveFailed(self.epoch, str(failure)))
            raise failure

    def rollback(self, to_step: int | None = None) -> int:
        """Goes back to the checkpoint of `to_step`, or to the newest one that verifies; returns its step.

        Everything returns with it: weights, optimizer, schedulers, random state, masks, widths, seeds. Later
        checkpoints go.

        Raises:
            CheckpointMissing: there is no such checkpoint.
            CheckpointCorrupt: it is damaged.
        """
        self._require_running()
        saving = self.parts.saving
        saving.settle()
        target = saving.store.latest() if to_step is None else saving.store.catalog.at(to_step)
        if target is None:
            raise CheckpointMissing(
                f"{self.run_dir} holds no checkpoint that verifies, so there is nothing to go to."
            )
        self.log.tell(acts.WentBack(target.epoch, target.step))
        self.pruning.cycles.drop()
        with self.network.attended():
            saving.return_to(target, as_rollback=True)
        self.pruning.went_back()
        self._metrics.forget()
        return target.step

    def veto(self, why: str) -> None:
        """Takes back the mask on trial because an examiner of your own says no; counts as a rollback.

        Raises:
            ConfigError: no mask is on trial.
            RollbackExhausted: after earlier rollbacks it must go back further and no checkpoint verifies.
        """
        self._require_running()
        with self.network.attended():
            self.pruning.veto(why)

    def close_breaker(self) -> None:
        """Lets pruning and growing go on at once, after failures in a row have stopped them.

        What stops them: `max_failures` of `pruning.budget`, `max_violations` of `growing`.
        """
        self._require_running()
        self.log.tell(acts.BreakerClosed(self.epoch))
        self.pruning.cycles.coordinator.close_breaker(self.epoch)
        self.growing.close_breaker()

    def finish(self, *, latency: bool = True) -> Result:
        """Cuts what is masked, measures, writes `report.html`, and lets go of the network.

        Args:
            latency: measure how much faster the network became (a few seconds).

        Raises:
            CheckpointError: the finished network or its report could not be saved; the session goes on, and
                `finish` can be called again when there is space.
        """
        from esper.session.finish import finish

        self._require_running()
        if self.parts.terms.pace.every_n_steps is not None:
            self._record_rest()
        with self.network.attended():
            return finish(self, latency=latency)

    def _record_rest(self) -> None:
        """Writes down the steps after the last period that has ended; nothing is decided about them."""
        rows = self.log.epochs
        trained = self.log.progress.trained_steps
        if trained > (rows[-1].step if rows else 0) or not self._metrics.is_empty:
            self.log.progress.epoch += 1
            self._record(self._clock())

    def detach(self) -> None:
        """Lets go of the network and the run directory without cutting; the run can be resumed.

        Raises:
            CheckpointError: the last save, or the audit, could not be written; everything was let go of.
        """
        if self._is_finished:
            return
        self._is_finished = True
        parts = self.parts
        workers = () if parts.pool is None else (parts.pool.close,)
        loop = (self.pruning.acting.rest, self._desk.close, self._rounds.detach)
        hands = (*loop, parts.tracker.detach, parts.growing.detach)
        done = (parts.runner.close, parts.emergency.close, parts.telemetry.settle)  # the audit still listens
        files = (*done, parts.saving.close, parts.telemetry.close)
        with ExitStack() as ways_out:  # each is gone, also where one before it fails
            for let_go in reversed((*hands, parts.network.detach, *workers, *files)):
                ways_out.callback(let_go)

    def continue_from(self, target: CheckpointRef, saved: dict[str, Any]) -> None:
        """Resumes: loads what a checkpoint holds and takes up the decision that was, or was being, made."""
        saving = self.parts.saving
        with self.network.attended():
            is_earlier = saving.return_to(target, saved, as_rollback=False)
        about = saving.decided_about(target, self.log.progress)
        if is_earlier:
            saving.decide_again(about)
        self.log.hear_of(saving.store.audit.told(acts.Withdrawn))
        network, terms = self.parts.network, self.parts.terms
        resumed = acts.Resumed(
            run=str(self.run_dir),
            step=self.step,
            epoch=self.epoch,
            cuts=len(network.changes) - len(parts_grown(network)),
            grown=len(parts_grown(network)),
            masked=network.masks.num_masked,
            removed=self.removed_fraction,
            cost=terms.config.pruning.cost,
            settings_id=terms.settings_id,
            settings=terms.config.model_dump(mode="json"),
        )
        self.log.tell(resumed)
        if self._may_prune():
            self.pruning.take_up(about)

    def _record(self, now: float) -> dict[str, float]:
        """Writes down the period that has just ended; returns its metrics."""
        network = self.parts.network
        keep = network.masks.keep
        reported, measured_step = self._metrics.take(self.step, is_awaited=self.pruning.is_awaited)
        metrics = self._soundness.measured(reported)
        row = EpochRow(
            epoch=self.epoch,
            step=self.step,
            metrics=metrics,
            flops=network.anatomy.flops(keep),
            parameters=network.anatomy.parameters(keep),
            masked_units=network.masks.num_masked,
            seconds=now - self._epoch_started,
            measured_step=measured_step,
        )
        self.log.end_epoch(row, (self.seconds_in_esper, now - self.started), **cost_of(self.parts))
        return metrics

    def _save(self) -> None:
        saving, ends = self.parts.saving, [row.step for row in self.log.epochs[-2:]]
        if self.step > saving.last_step:
            saving.save(self.step, self.epoch)
        elif 0 < self.step <= (ends[0] if ends[1:] else 0):  # else a framework has saved here
            self.log.tell(events.NothingToSave(self.epoch))

    def _may_prune(self) -> bool:
        """Whether no seed is on its way; tells once if one keeps pruning from going on."""
        if self.growing.is_under_way and self.parts.pool is not None:
            self.log.tell(seed_events.PruningRests())
        return not self.growing.is_under_way

    def _count_step(self) -> None:
        begun = self._clock()
        self.log.progress.step += 1
        self.parts.telemetry.step()
        if self._is_first_step:
            self.parts.network.note_still()
            self._is_first_step = False
        self._desk.glance()
        self.parts.telemetry.at_steps.took(begun, self._clock())

    def _require_running(self) -> None:
        if self._is_finished:
            raise EsperError("This session has ended. Attach again with another run_dir, or resume this one.")
