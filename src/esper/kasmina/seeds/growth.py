"""The door to growing: seeds on one network, from the training loop's side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.graph import Loss, bare, is_compiled, is_parallel
from esper.batches import split_sample
from esper.errors import ConfigError, LifecycleError
from esper.kasmina.held import HANDS
from esper.kasmina.seeds.course import HasScale
from esper.kasmina.seeds.garden import Garden, Ground
from esper.kasmina.seeds.gates import GateResult
from esper.kasmina.seeds.kernels import Kernels
from esper.kasmina.seeds.owners import Owners
from esper.kasmina.seeds.recipe import Recipe
from esper.kasmina.seeds.settings import GrowthSettings, Isolation
from esper.kasmina.seeds.slot import Slot
from esper.kasmina.seeds.world import ALONE, World
from esper.nissa import LOGGER, Event, FanOut, Sink, kernel_events


def _nobody(_: str) -> None:
    """There is nobody to tell."""


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
        within: what holds network and optimizer already, and wants these seeds in them.
        epoch: epochs that have ended by now.
        alarm: is told, in words, before a seed goes that has reached the network too often: the moment to
            save what there is.
        kernels: has seeds made and checked in a worker process, as a session gives them; None: they are made
            in this process.
        world: the processes that train the network, each of which has such a growth; a session leads them.

    Raises:
        ConfigError: there is no held-out data, several processes train the network, somebody holds it, or
            settings or blueprints are not what they should be.

    Attributes:
        settings: pace and limits.
        monitor: of isolation.
        breaker: whether anything may germinate; `breaker.close()` is the operator's word that it may.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        loss: Loss,
        probe: Iterable[Any],
        scaler: HasScale | None = None,
        blueprints: Mapping[str, Callable[..., nn.Module]] | None = None,
        settings: GrowthSettings | Mapping[str, Any] | None = None,
        sink: Sink = LOGGER,
        within: Ground | None = None,
        epoch: int = 0,
        alarm: Callable[[str], None] = _nobody,
        kernels: Kernels | None = None,
        world: World = ALONE,
    ) -> None:
        self.model, self.optimizer = _host_of(model, sink, is_led=world is not ALONE), optimizer
        if within is None:
            HANDS.refuse_held(self.model, (optimizer,))
        if not (batches := list(probe)) and world.is_first:
            raise ConfigError(
                "probe yields no batch, and gates are asked on held-out data. Give batches (input, target) "
                "that training never sees. Nothing was changed."
            )
        self.settings, self._loss = (given := GrowthSettings.of(settings)), loss
        garden = Garden.of(
            *(self.model, optimizer, loss, batches, given),
            scaler=scaler,
            blueprints=blueprints,
            sink=sink,
            within=within,
            alarm=alarm,
            kernels=kernels,
            world=world,
        )
        self._bed, self._sowing, self._course = garden.bed, garden.sowing, garden.course
        self._lessons, self.monitor, self.breaker = garden.lessons, garden.monitor, garden.course.breaker
        self._bed.epoch = epoch
        self._is_over = False
        if within is None:
            HANDS.take(self)
        self._hooks = [
            optimizer.register_step_pre_hook(lambda stepping, *_: self._course.before_step(stepping)),
            optimizer.register_step_post_hook(lambda stepping, *_: self._course.after_step(stepping)),
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
        self.teach(value, target, inputs)
        return value

    def teach(self, value: Tensor, target: Any, inputs: Any) -> None:
        """Gives seeds their lesson in one training step; arguments as for `loss`.

        Args:
            value: the loss of the host.
            target: of the batch.
            inputs: of the batch.
        """
        if torch.is_grad_enabled():
            args, kwargs, _ = split_sample(inputs, with_target=False, model=self.model)
            slots = list(self._course.learning())
            for slot in slots:
                self._lessons.give(slot, value, (args, kwargs), target)
            self._lessons.wait_for(value, slots)

    def germinate(
        self,
        path: str,
        blueprint: str = "auto",
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
            ConfigError: the blueprint is unknown or fails, or `isolation` or `lr` cannot be meant.
            LifecycleError: growing has ended.
        """
        self._require_open()
        return self._sowing.sow(path, blueprint, options, isolation=isolation, lr=lr)

    def _require_open(self) -> None:
        if self._is_over:
            raise LifecycleError(
                "This growth has ended, and listens to no step any more. Nothing was changed. Begin another "
                "on the same network: Growth(model, optimizer, ...)."
            )

    def prepare(self, paths: Iterable[str], blueprint: str = "auto", **options: Any) -> None:
        """Has kernels for seeds at these places made meanwhile, so that germination need not wait for them.

        Raises:
            UnknownPathError: there is no such module.
            ConfigError: the blueprint is unknown.
        """
        self._require_open()
        self._sowing.expect(paths, blueprint, options)

    def places(self, pattern: str = "auto") -> list[str]:
        """Free places for a seed: paths that a pattern names, or `auto`, the borders of blocks.

        Raises:
            UnknownPathError: there is no module of such a path that could have a seed.
        """
        return self._sowing.places(pattern)

    def try_out(
        self,
        paths: Iterable[str],
        blueprint: str = "auto",
        *,
        isolation: Isolation | None = None,
        lr: float | None = None,
        **options: Any,
    ) -> dict[str, GateResult]:
        """Makes a seed at each of these places; of all that G1 lets pass only the best goes on.

        The others are culled, none of them having touched the network. Arguments as for `germinate`.

        Returns:
            What G0 said, by path.
        """
        self._require_open()
        return self._sowing.contest(paths, blueprint, options, isolation=isolation, lr=lr)

    def refuse(self, path: str, blueprint: str, why: str) -> GateResult:
        """Tells that nothing is germinated at a place, for a reason that only the caller knows."""
        return self._sowing.refuse(path, blueprint, why)

    def refuse_taken(self, pattern: str, blueprint: str) -> dict[str, GateResult]:
        """Tells of all places that a pattern names that they are taken; none of them is free."""
        return self._sowing.refuse_taken(pattern, blueprint)

    def cull(self, path: str, why: str = "Culled by hand.") -> None:
        """Removes a seed: at once where the host does not know it, else when its share has gone back to 0.

        Raises:
            IllegalTransitionError: there is none that the host does not own.
        """
        self._bed.cull(self._bed.slot_at(path), why)

    def pause(self, path: str) -> None:
        """The seed is the identity, and learns nothing, until `unpause`."""
        self._course.pause(path, is_paused=True)

    def unpause(self, path: str) -> None:
        """The seed goes on where it was paused."""
        self._course.pause(path, is_paused=False)

    def end_epoch(self, epochs_left: int | None = None) -> None:
        """Ends an epoch: asks the gates of all seeds that have come to one; each goes one stage at most.

        Args:
            epochs_left: how many are still to come, if that is known. A seed that cannot prove itself in so
                many is not blended in: the network would get used to it, and lose it when growing ends.
        """
        self._course.end_epoch(epochs_left)

    def finish(self) -> nn.Module:
        """Ends growing and returns the network: what has proved itself is a part of it, all else is gone."""
        self.end()
        self.detach()
        return self.model

    def end(self) -> None:
        """Ends the way of every seed: what has proved itself is a part of the network, all else is gone."""
        self._course.finish()

    def detach(self) -> None:
        """Lets go of network and optimizer, which stay as they are."""
        self._is_over = True
        HANDS.let_go(self)
        self._course.detach()
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

    @property
    def is_under_way(self) -> bool:
        """Whether there is a seed that is not a plain part of the network yet."""
        return self._bed.is_under_way

    def settle(self) -> Iterator[Recipe]:
        """Gives away seeds that have become plain parts of the network, one by one, to who looks after that.

        While one is given away, those that follow it are out of the network.
        """
        return self._bed.settle()

    def tell(self, event: Event) -> None:
        """Tells of what has become of a seed that was given away."""
        self._bed.tell(event)

    def hidden(self) -> AbstractContextManager[None]:
        """The network without any seed that is under way."""
        return self._bed.hidden()

    def follow(self) -> None:
        """The network was cut, while no seed was under way."""
        self._bed.follow()

    def clear(self) -> None:
        """Takes out every seed that is under way, as if none had been; nothing is told."""
        self._bed.clear()

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
        if made := self._course.programs.made:
            lines.append(f"  torch.compile made {made} program(s) in epochs with a seed")
        return "\n".join(lines)

    # --- What it remembers ---

    def state(self) -> dict[str, Any]:
        """What growing remembers; weights and optimizer of the host are saved beside it, as ever."""
        violations = dict(self.monitor.violations)
        return {**self._bed.state(), "violations": violations, "breaker": self.breaker.saved()}

    def check(self, state: Mapping[str, Any], *, is_in_form: bool = True) -> None:
        """Refuses the seeds of another network; changes nothing.

        Args:
            state: from `state`.
            is_in_form: whether the network has the structure of then already, and so its places.

        Raises:
            CheckpointError: the state is of another version.
            UnknownPathError: the network has no such place.
            ConfigError: a blueprint is not known here.
        """
        self._bed.check(state)
        if is_in_form:
            self._bed.check_places(state)

    def load(self, state: Mapping[str, Any]) -> None:
        """Brings back the seeds of then; weights and optimizer of the host are to be loaded after it.

        Args:
            state: from `state`, of this network with any seeds; `check` has admitted it.
        """
        self._bed.load(state)
        self.monitor.violations = dict(state["violations"])
        self.breaker.load(state.get("breaker"))  # older runs had none


def _host_of(model: nn.Module, sink: Sink, *, is_led: bool) -> nn.Module:
    """The bare network; it is told if it is compiled as a whole, where seeds cost new programs.

    Raises:
        ConfigError: several processes train it, and nobody leads them.
    """
    if is_parallel(model) and not is_led:
        raise ConfigError(
            "Several processes train this network, and nobody would add up what its seeds learn in each. "
            "Nothing was changed. Use a session, which does so: esper.attach(model, ...) on every rank, and "
            "session.grow(...)."
        )
    if is_compiled(model):
        FanOut(sink).emit(kernel_events.CompiledAsAWhole())
    return bare(model)
