"""How a seed learns apart from its host: a second pass through the resting network, with the seed in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.graph import Loss
from esper.checkpoint import drawn_apart
from esper.kasmina.seeds.isolation import GradientIsolationMonitor, Update, at_rest
from esper.kasmina.seeds.lesson import Lesson
from esper.kasmina.seeds.owners import Owners
from esper.kasmina.seeds.settings import GrowthSettings
from esper.kasmina.seeds.slot import Slot
from esper.leyline import SeedLifecycleStage as Stage

Inputs = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword inputs of one batch."""


class Lessons:
    """What seeds do with a training batch, between the host's forward and backward pass.

    Args:
        model: the network.
        optimizer: of the host.
        loss: `loss(output, target)`.
        owners: the registry.
        monitor: watches isolation.
        settings: how often is checked and compared.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: Loss,
        owners: Owners,
        monitor: GradientIsolationMonitor,
        settings: GrowthSettings,
    ) -> None:
        self._model, self._optimizer, self._loss, self._owners = model, optimizer, loss, owners
        self._monitor, self._settings = monitor, settings

    def give(self, slot: Slot, loss: Tensor, inputs: Inputs, target: Any) -> None:
        """One seed learns from one batch, or is compared on it; how it has reached the host its slot keeps.

        Args:
            slot: holds the seed.
            loss: what the host made of the batch.
            inputs: the batch.
            target: its target.
        """
        in_stage, settings = slot.track.in_stage, self._settings
        lesson = Lesson(slot.learner)
        slot.step.offer(lesson)
        slot.track.is_taught = True
        if slot.stage in (Stage.TRAINING, Stage.BLENDING):
            window = slot.since if slot.stage is Stage.BLENDING else slot.before
            lesson.notes.append((window, loss.detach()))
        if slot.stage is Stage.PROBATIONARY and in_stage % settings.counterfactual_every == 0:
            lesson.notes.append((slot.gains, self._gain(slot, inputs, target)))
        is_checked = slot.is_checked_now(settings.check_every)
        before = {name: t.detach().clone() for name, t in self._host().items()} if is_checked else {}
        if slot.learns_apart:
            lesson.gradients = self._learned(slot, inputs, target)
        if not is_checked:
            return
        if not self._monitor.check_untouched(slot.path, before, self._host()):
            slot.leak = "its own pass changed something in the host."
        elif not self._same_update(slot, inputs, target):
            slot.leak = "the host's update is another one than without the seed."

    def wait_for(self, loss: Tensor, slots: Sequence[Slot]) -> None:
        """Counts the lessons that were given on a batch, when the host's backward pass over it begins.

        Args:
            loss: what the host made of the batch.
            slots: those that had a lesson.
        """
        given = [(slot, lesson) for slot in slots if (lesson := slot.step.last) is not None]

        def begin(_: Any = None) -> None:
            is_new = any(slot.is_gathering for slot, _ in given) and self._is_new_step()
            for slot, lesson in given:
                if is_new:
                    slot.drop()
                slot.count(lesson)

        if given and loss.requires_grad:
            loss.register_hook(begin)
        else:
            begin()

    def _is_new_step(self) -> bool:
        """Whether the host has no gradient: what was gathered before was dropped by the training script."""
        held = [p for group in self._optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in held if p.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            return False
        is_zero = not gradients or not float(torch.nn.utils.get_total_norm(gradients))
        return bool(held) and is_zero

    def _learned(self, slot: Slot, inputs: Inputs, target: Any) -> tuple[Tensor | None, ...] | None:
        """Gradients of a pass of the seed's own."""
        learner = slot.learner
        if learner is None:
            return None
        share = 1.0 if slot.stage is Stage.TRAINING else slot.share
        number, slot.track.passes = slot.track.number, slot.track.passes + 1
        with drawn_apart(number), at_rest(self._model, slot.apart()), slot.grafted(share):
            loss = self._loss_of(inputs, target)
            if not loss.requires_grad:
                return (None,) * len(learner.parameters)
            return torch.autograd.grad(loss, learner.parameters, allow_unused=True)

    def _gain(self, slot: Slot, inputs: Inputs, target: Any) -> Tensor:
        """How much higher the loss of a batch is without the seed."""
        number = slot.track.number
        with torch.no_grad(), drawn_apart(number), at_rest(self._model), slot.grafted():
            grown = self._loss_of(inputs, target)
        with torch.no_grad(), drawn_apart(number), at_rest(self._model), slot.absent():
            return self._loss_of(inputs, target) - grown

    def _same_update(self, slot: Slot, inputs: Inputs, target: Any) -> bool:
        def present() -> Update:
            return self._update(slot.track.number, inputs, target)

        def absent() -> Update:
            with slot.absent():
                return self._update(slot.track.number, inputs, target)

        return self._monitor.check_update(slot.path, present, absent)

    def _update(self, number: int, inputs: Inputs, target: Any) -> Update:
        """The loss and its gradient for every parameter of the host, with the network as it stands."""
        parameters = [p for p in self._owners.of_host().values() if p.requires_grad]
        with drawn_apart(number), at_rest(self._model, freeze=False):
            loss = self._loss_of(inputs, target)
            gradients: tuple[Tensor | None, ...] = ()
            if parameters:
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return (loss.detach(), *(g if g is not None else torch.zeros(0) for g in gradients))

    def _host(self) -> dict[str, Tensor]:
        """All that a pass of a seed could change in the host, the random state included."""
        parameters = self._owners.of_host()
        gradients = {f"{name}.grad": p.grad for name, p in parameters.items() if p.grad is not None}
        buffers = {f"buffer {name}": buffer for name, buffer in self._model.named_buffers()}
        return {**parameters, **gradients, **buffers, "random": torch.get_rng_state()}

    def _loss_of(self, inputs: Inputs, target: Any) -> Tensor:
        args, kwargs = inputs
        return self._loss(self._model(*args, **kwargs), target).reshape(())
