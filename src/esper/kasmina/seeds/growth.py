"""The door to growing: seeds on one network, from the training loop's side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.graph import Loss, bare, is_parallel
from esper.batches import split_sample
from esper.errors import ConfigError, IllegalTransitionError
from esper.kasmina.held import HANDS
from esper.kasmina.seeds.bed import SeedBed
from esper.kasmina.seeds.blueprints import Blueprint
from esper.kasmina.seeds.evidence import Probe
from esper.kasmina.seeds.gatekeeper import Gatekeeper
from esper.kasmina.seeds.gates import GateResult
from esper.kasmina.seeds.isolation import GradientIsolationMonitor
from esper.kasmina.seeds.learning import Lessons
from esper.kasmina.seeds.lifecycle import ALIVE, FORWARD, SeedEvent, departure
from esper.kasmina.seeds.owners import HOST, Owners
from esper.kasmina.seeds.settings import GrowthSettings
from esper.kasmina.seeds.slot import Isolation, Slot
from esper.leyline import SeedLifecycleStage as Stage
from esper.nissa import LOGGER, FanOut, Sink, seed_events

_NORM_EVERY = 10
_WITHOUT_LOSS = 50
"""Steps after which somebody is told that nothing was learned in them."""


class HasScale(Protocol):
    """What a growth asks of a GradScaler."""

    def get_scale(self) -> float: ...


class Growth:
    """Seeds on one network: germinated by hand, led by gates, kept or removed without a trace.

    Three lines in a training loop: `loss = growth.loss(model(x), y, x)` in a step, `growth.end_epoch()` after
    an epoch, and `growth.finish()` last. `print(growth)` tells how every seed is doing.

    Args:
        model: the network, on its device; `torch.compile` may be around it.
        optimizer: trains it, and nothing else of these seeds.
        loss: `loss(output, target)`, a scalar.
        probe: held-out batches `(input, target)` that gates are asked with; all are kept.
        scaler: the GradScaler, if there is one.
        blueprints: your own ones by name.
        settings: pace and limits, or a mapping that says so.
        sink: who is told what happens.

    Raises:
        ConfigError: there is no held-out data, several processes train the network, or somebody holds it.

    Attributes:
        settings: pace and limits.
        monitor: of isolation.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        loss: Loss,
        probe: Iterable[Any],
        scaler: HasScale | None = None,
        blueprints: Mapping[str, Blueprint] | None = None,
        settings: GrowthSettings | Mapping[str, Any] | None = None,
        sink: Sink = LOGGER,
    ) -> None:
        self.model, self.optimizer = bare(model), optimizer
        if is_parallel(model):
            raise ConfigError(
                "Several processes train this network, and nobody would add up what its seeds learn in each. "
                "Nothing was changed. Grow it in one process, and go on in several when it is grown."
            )
        HANDS.refuse_held(self.model, optimizer)
        if not (batches := list(probe)):
            raise ConfigError(
                "probe yields no batch, and gates are asked on held-out data. Give batches (input, target) "
                "that training never sees. Nothing was changed."
            )
        given = settings if isinstance(settings, GrowthSettings) else GrowthSettings(**(settings or {}))
        self.settings, self._loss, self._scaler = given, loss, scaler
        self.monitor = GradientIsolationMonitor(given.max_violations)
        self._bed = SeedBed(self.model, optimizer, blueprints or {}, given, FanOut(sink))
        self._probe = Probe(self.model, loss, batches)
        self._gates = Gatekeeper(self.model, self._probe, self.monitor, given)
        self._lessons = Lessons(self.model, loss, self._bed.owners, self.monitor, given)
        self._steps: Mapping[Stage, Callable[[Slot], None]] = {
            Stage.TRAINING: self._train,
            Stage.BLENDING: self._blend,
            Stage.SHADOWING: self._shadow,
            Stage.PROBATIONARY: self._train,
            Stage.CULLED: self._fade,
            Stage.FOSSILIZED: self._join,
        }
        self._idle = 0
        HANDS.take(self)
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    # --- What a training loop calls ---

    def loss(self, output: Any, target: Any, inputs: Any) -> Tensor:
        """The loss of one training step, `loss(output, target)`; seeds have their lesson on the way.

        Args:
            output: what the network returned.
            target: as for the given loss.
            inputs: what it was called with: a tensor, several in a tuple, or a mapping of keywords.
        """
        value = self._loss(output, target)
        if torch.is_grad_enabled():
            args, kwargs, _ = split_sample(inputs, with_target=False)
            self._idle = 0
            for slot in self._bed.living():
                if slot.stage is Stage.GERMINATED:
                    self._bed.move(slot, SeedEvent.TRAIN)
                if slot.track.is_paused:
                    continue
                if leak := self._lessons.give(slot, value, (args, kwargs), target):
                    self._punish(slot, leak)
        return value

    def germinate(
        self,
        path: str,
        blueprint: str = "conv",
        *,
        isolation: Isolation | None = None,
        lr: float | None = None,
        **options: Any,
    ) -> GateResult:
        """Makes a seed for the output of the module at `path`; it begins to learn with the next step.

        Args:
            path: of the module, as `model.named_modules()` names it.
            blueprint: what the seed is.
            isolation: for this seed, instead of that in the settings.
            lr: a learning rate of its own; otherwise that of the host, whatever a scheduler makes of it.
            options: of the blueprint.

        Returns:
            What G0 said; where it is closed nothing was changed.

        Raises:
            IllegalTransitionError: there is a seed at this place, or nothing may be germinated there yet.
            UnknownPathError: there is no such module.
            ConfigError: the blueprint is unknown or fails.
        """
        slot = self._bed.slot_at(path)
        departure(slot.stage, SeedEvent.GERMINATE, path)
        module = slot.place.module
        seen, calls = self._probe.seen_at(module)
        uses = sum(other is module for _, other in self.model.named_modules(remove_duplicate=False))
        if not seen or uses > 1:
            raise ConfigError(
                f"The module {path!r} is called {calls} time(s) in a pass and stands in {uses} place(s) of "
                "the network; a seed needs one that is called once. Nothing was changed."
            )
        like, isolation = seen[0], isolation or self.settings.isolation
        slot.track.sow(blueprint, options, like.shape, like.dtype, isolation, lr)
        try:
            self._bed.build(slot)
            result = self._gates.sanity(slot, seen, calls, self.owners)
        except BaseException:
            slot.remove()
            raise
        slot.track.evidence = str(result)
        if result.passed:
            self._bed.plant(slot, str(result))
        else:
            slot.remove()
            self.monitor.forget(path)
            self._bed.tell(seed_events.SeedRefused(self.epoch, path, blueprint, str(result)))
        return result

    def cull(self, path: str, why: str = "Culled by hand.") -> None:
        """Removes a seed: at once where the host does not know it, else when its share has gone back to 0.

        Raises:
            IllegalTransitionError: there is none that the host does not own.
        """
        self._bed.cull(self._bed.slot_at(path), why)

    def pause(self, path: str) -> None:
        """The seed is the identity, and learns nothing, until `unpause`."""
        self._pause(path, is_paused=True)

    def unpause(self, path: str) -> None:
        """The seed goes on where it was paused."""
        self._pause(path, is_paused=False)

    def end_epoch(self) -> None:
        """Ends an epoch: asks the gates of all seeds that have come to one; each goes one stage at most."""
        self._bed.epoch += 1
        for slot in self.slots.values():
            track = slot.track
            track.epochs += 1
            if slot.stage in ALIVE:
                self._decide(slot)
            elif slot.stage is Stage.EMBARGOED and track.epochs >= self.settings.embargo_epochs:
                self._bed.move(slot, SeedEvent.RESET)
            elif slot.stage is Stage.RESETTING:
                result = self._gates.reset(slot, self.owners)
                track.evidence = str(result)
                if result.passed:
                    self.monitor.forget(slot.path)
                    self._bed.move(slot, SeedEvent.REOPEN, str(result))

    def finish(self) -> nn.Module:
        """Ends growing and returns the network: what has proved itself is a part of it, all else is gone."""
        for slot in self.slots.values():
            if slot.stage in ALIVE and slot.stage is not Stage.CULLED:
                self._bed.cull(slot, "Growing was ended before it had proved itself.", at_once=True)
            elif slot.stage is Stage.CULLED:
                self._bed.move(slot, SeedEvent.EMBARGO)
            if slot.stage is Stage.FOSSILIZED:
                slot.track.joined = self.settings.ramp_steps
                slot.settle()
            if slot.stage in (Stage.FOSSILIZED, Stage.DORMANT):
                self._bed.move(slot, SeedEvent.TERMINATE)
        self.detach()
        return self.model

    def detach(self) -> None:
        """Lets go of network and optimizer, which stay as they are."""
        HANDS.let_go(self)
        for hook in self._hooks:
            hook.remove()

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Every place where something was germinated, by its path."""
        return self._bed.slots

    @property
    def owners(self) -> Owners:
        """Who owns which parameter."""
        return self._bed.owners

    @property
    def epoch(self) -> int:
        """Epochs that have ended."""
        return self._bed.epoch

    def __str__(self) -> str:
        """A line for every slot."""
        host = sum(p.numel() for p in self.owners.of_host().values())
        lines = [
            f"{type(self.model).__name__}, {host:,} parameters, epoch {self.epoch}: {len(self.slots)} slot(s)"
        ]
        for path, slot in self.slots.items():
            track = slot.track
            paused = ", paused" if track.is_paused else ""
            lines.append(f"  {path}  {track.blueprint}  {slot.stage.name}{paused}  share {slot.share:.2f}")
            lines.append(f"      {track.evidence}")
        return "\n".join(lines)

    # --- What it remembers ---

    def state(self) -> dict[str, Any]:
        """What growing remembers; weights and optimizer of the host are saved beside it, as ever."""
        return {**self._bed.state(), "violations": dict(self.monitor.violations)}

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuses the seeds of another network; changes nothing.

        Raises:
            CheckpointError: the state is of another version.
            UnknownPathError: the network has no such place.
            ConfigError: a blueprint is not known here.
        """
        self._bed.check(state)

    def load(self, state: Mapping[str, Any]) -> None:
        """Brings back the seeds of then; weights and optimizer of the host are to be loaded after it.

        Args:
            state: from `state`, of this network with any seeds; `check` has admitted it.
        """
        self._bed.load(state)
        self.monitor.violations = dict(state["violations"])

    # --- What happens on the way ---

    def _decide(self, slot: Slot) -> None:
        """Asks the gate of a seed if it is time, and moves the seed, or lets it wait, or culls it."""
        track, stage = slot.track, slot.stage
        if stage in (Stage.GERMINATED, Stage.CULLED) or track.is_paused:
            return
        if slot.faults:
            self._bed.cull(slot, f"It was no number in {slot.faults} pass(es) or step(s).", at_once=True)
            return
        if not self._gates.is_due(slot):
            return
        result = self._gates.ask(slot)
        track.evidence = str(result)
        if result.passed:
            self._bed.move(slot, FORWARD[stage], str(result))
        elif track.looks >= self.settings.patience_epochs or stage is Stage.SHADOWING:
            self._bed.cull(slot, str(result))
        else:
            self._bed.tell(
                seed_events.SeedWaits(self.epoch, slot.path, track.blueprint, stage.name, str(result))
            )

    def _punish(self, slot: Slot, leak: str) -> None:
        """A seed has reached the host: too often, and it goes at once."""
        count, limit = self.monitor.violations[slot.path], self.settings.max_violations
        self._bed.tell(seed_events.IsolationViolated(self.epoch, slot.path, count, limit, leak))
        if self.monitor.is_open(slot.path):
            self._bed.cull(slot, f"It violated its isolation {count} times: {leak}", at_once=True)

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        self.owners.check_step(HOST, optimizer)
        for slot in self._bed.living():
            if slot.stage is Stage.TRAINING and slot.track.in_stage % _NORM_EVERY == 0:
                gradients = [p.grad for p in self.owners.of_host().values() if p.grad is not None]
                slot.host_norm = torch.nn.utils.get_total_norm(gradients).detach()

    def _after_step(self, *_: Any) -> None:
        self._idle += bool(self._bed.living())
        if self._idle == _WITHOUT_LOSS:
            self._bed.tell(seed_events.NothingLearned(_WITHOUT_LOSS))
        for slot in self.slots.values():
            if slot.stage in self._steps and slot.layer is not None and not slot.track.is_paused:
                slot.track.in_stage += 1
                self._steps[slot.stage](slot)

    def _train(self, slot: Slot) -> None:
        if slot.learner is not None:
            self.owners.check_step(slot.path, slot.learner.optimizer)
            slot.learner.step(1.0 if self._scaler is None else self._scaler.get_scale())
        slot.settle()

    def _blend(self, slot: Slot) -> None:
        slot.track.position = min(slot.track.position + 1, self.settings.ramp_steps)
        self._train(slot)

    def _shadow(self, slot: Slot) -> None:
        if self._gates.is_due(
            slot
        ):  # nobody learns here, so nothing is gained by waiting for an epoch to end
            self._decide(slot)

    def _fade(self, slot: Slot) -> None:
        slot.track.position -= 1
        slot.settle()
        if slot.track.position <= 0:
            self._bed.move(slot, SeedEvent.EMBARGO)

    def _join(self, slot: Slot) -> None:
        slot.track.joined += 1
        slot.settle()

    def _pause(self, path: str, *, is_paused: bool) -> None:
        slot = self._bed.slot_at(path)
        if slot.stage not in ALIVE:
            raise IllegalTransitionError(
                f"The slot {path!r} is {slot.stage.name}: there is no seed to pause. Nothing was changed."
            )
        slot.track.is_paused = is_paused
        if slot.learner is not None:
            slot.learner.drop()
        slot.settle()
