"""Who owns which parameter, and the optimizers of those that are not the host's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.checkpoint import drawn_apart
from esper.errors import ConfigError, LifecycleError
from esper.kasmina.seeds.world import ALONE, World

HOST = "HOST"
"""The owner of the network that is there before all seeds. A seed's name is the path of its slot."""


class Owners:
    """The registry: one owner for every parameter, by its qualified name.

    Names are those of the network without its seeds: what stands inside of a place with a seed keeps its own.
    """

    def __init__(self, model: nn.Module) -> None:
        self._owner: dict[str, str]
        self._name: dict[Tensor, str]
        self.renew(model)

    def renew(self, model: nn.Module) -> None:
        """Forgets everything but that the host owns the network as it stands."""
        self._owner, self._name = {}, {}
        self.take(HOST, dict(model.named_parameters()))

    def take(self, owner: str, parameters: Mapping[str, Tensor]) -> None:
        """Enters parameters that nobody owns.

        Raises:
            LifecycleError: one of them has an owner already; nothing was changed.
        """
        for name, parameter in parameters.items():
            if name in self._owner or parameter in self._name:
                other = self._name.get(parameter, name)
                raise LifecycleError(
                    f"{name} of {owner} cannot be entered: {other} is a parameter of {self._owner[other]} "
                    "already, and each has one owner. Nothing was changed."
                )
        for name, parameter in parameters.items():
            self._owner[name], self._name[parameter] = owner, name

    def hand_over(self, owner: str, to: str) -> None:
        """Everything that `owner` has belongs to somebody else from now on."""
        self._owner = {name: to if has == owner else has for name, has in self._owner.items()}

    def release(self, parameters: Iterable[Tensor]) -> None:
        """Forgets parameters, whoever owns them."""
        for parameter in parameters:
            if (name := self._name.pop(parameter, None)) is not None:
                del self._owner[name]

    def of(self, owner: str) -> dict[str, Tensor]:
        """The parameters of an owner by name."""
        return {name: parameter for parameter, name in self._name.items() if self._owner[name] == owner}

    def of_host(self) -> dict[str, Tensor]:
        return self.of(HOST)

    def of_all(self) -> set[Tensor]:
        """Every parameter that has an owner."""
        return set(self._name)

    def check_step(self, owner: str, optimizer: Optimizer) -> None:
        """Refuses a step that would move a parameter of another owner.

        Raises:
            LifecycleError: it names the parameter and both; nothing was moved.
        """
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = self._name.get(parameter)
                if name is not None and self._owner[name] != owner:  # a loss may have parameters of its own
                    raise LifecycleError(
                        f"An optimizer of {owner} holds {name}, which belongs to {self._owner[name]}. The "
                        "step was not made. Seeds are trained by optimizers of their own: give yours the "
                        "parameters of the network as it was before anything was germinated."
                    )


class SeedOptimizer:
    """Trains the parameters of one seed, apart from the host's: own gradients, own norm, own steps.

    Its gradients never stay in `.grad`, where a training script would clip them together with the host's.

    Args:
        parameters: of the seed.
        host: the optimizer that will have them one day; this one is of its class, with its options.
        group: number of the host's group that they will join; without `lr` it says the learning rate, always.
        lr: a learning rate of its own.
        clip: the norm that a step's gradient is cut down to.
        world: the processes that train it.

    Attributes:
        steps: made so far.
        faults: steps and passes without a gradient that is a number; zeros take its place.
        norm: of the last gradient before it was clipped; NaN before the first.

    Raises:
        ConfigError: the class cannot be made from its own options, or makes no step with a gradient alone.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        host: Optimizer,
        group: int,
        *,
        lr: float | None,
        clip: float,
        world: World = ALONE,
    ) -> None:
        self.parameters, self._world = tuple(parameters), world
        self._host, self._number, self._lr, self._clip = host, group, lr, clip
        self.optimizer = _of_the_kind_of(host, self._group, self.parameters)
        self.steps = 0
        device = self.parameters[0].device
        self.faults = torch.zeros((), dtype=torch.int64, device=device)
        self.norm = torch.full((), torch.nan, device=device)
        self._gradients: dict[Tensor, Tensor] = {}
        self._passes = 0
        self._hooks = [p.register_post_accumulate_grad_hook(self._take) for p in self.parameters]

    @property
    def _group(self) -> dict[str, Any]:
        """Asked for every time: an optimizer that loads a state makes new groups."""
        group: dict[str, Any] = self._host.param_groups[self._number]
        return group

    def learn(self, gradients: Iterable[Tensor | None]) -> None:
        """Adds the gradients of one pass of the seed's own; a step takes the mean of its passes.

        That no parameter has a gradient is a fault: the output does not depend on them.
        """
        gradients = tuple(gradients)
        self._passes += 1
        self.faults += int(all(gradient is None for gradient in gradients))
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                self._add(parameter, gradient)

    @property
    def is_gathering(self) -> bool:
        """Whether there is a gradient for the next step already."""
        return bool(self._gradients)

    def step(self, scale: float = 1.0) -> None:
        """One step with what has been gathered; without a gradient nothing happens.

        Args:
            scale: what the loss of the host's passes was multiplied with.
        """
        divisor = self._passes or scale
        own = {p: self._gradients[p] / divisor for p in self.parameters if p in self._gradients}
        self.drop()
        held = self._world.averaged(self.parameters, own)
        if not held:
            return
        gradients = list(held.values())
        self.norm = torch.nn.utils.get_total_norm(gradients).detach()
        # No number in the gradient: zeros instead, without waiting for the device to say so.
        is_sound = self.norm.isfinite()
        self.faults += ~is_sound
        share = (self._clip / (self.norm + 1e-6)).clamp(max=1.0)
        for parameter, gradient in held.items():
            parameter.grad = torch.where(is_sound, gradient * share, torch.zeros_like(gradient))
        for group in self.optimizer.param_groups:
            group["lr"] = self._group["lr"] if self._lr is None else self._lr
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        self.steps += 1

    def drop(self) -> None:
        """Forgets gradients that were gathered."""
        self._gradients, self._passes = {}, 0

    def close(self) -> None:
        """From now on gradients of these parameters stay where autograd puts them."""
        self.drop()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def move_to_host(self) -> None:
        """Gives parameters and their state to the host's optimizer, in the group that was meant for them.

        The group stays one of those that schedulers know: nothing is added that they would not follow.
        """
        self.close()
        self._group["params"].extend(self.parameters)
        for parameter in self.parameters:
            if parameter in self.optimizer.state:
                self._host.state[parameter] = self.optimizer.state.pop(parameter)

    def _take(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self._add(parameter, parameter.grad)
            parameter.grad = None

    def _add(self, parameter: Tensor, gradient: Tensor) -> None:
        before = self._gradients.get(parameter)
        self._gradients[parameter] = gradient.detach() if before is None else before + gradient.detach()


def group_for(optimizer: Optimizer, host: nn.Module) -> int:
    """The number of the optimizer's group that trains a host module; the first where none does."""
    own = set(host.parameters())
    groups = enumerate(optimizer.param_groups)
    return next((n for n, group in groups if any(p in own for p in group["params"])), 0)


def take_from(optimizer: Optimizer, parameters: Iterable[Tensor]) -> None:
    """Takes parameters and their state out of an optimizer; the others keep theirs."""
    gone = set(parameters)
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in gone]
    for parameter in gone:
        optimizer.state.pop(parameter, None)


def _of_the_kind_of(host: Optimizer, group: Mapping[str, Any], parameters: Sequence[Tensor]) -> Optimizer:
    accepted = inspect.signature(type(host).__init__).parameters
    options = {key: value for key, value in group.items() if key in accepted and key != "params"}
    make: Any = type(host)
    try:
        optimizer: Optimizer = make(list(parameters), **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"A seed needs an optimizer like the host's, whose state it takes along one day, and "
            f"{type(host).__name__} cannot be made from its options {sorted(options)}: {error}. Nothing was "
            "changed. Most optimizers of torch.optim can."
        ) from error
    try:  # a step of another one, on tensors of the same shape: a closure may be wanted, or other gradients
        copies = [torch.zeros_like(parameter).requires_grad_() for parameter in parameters]
        for copied in copies:
            copied.grad = torch.zeros_like(copied)
        with drawn_apart(0):
            trial: Optimizer = make(copies, **options)
            trial.step()
    except Exception as error:
        raise ConfigError(
            f"A seed is trained by an optimizer like the host's, step by step with its own gradient, and "
            f"{type(host).__name__} makes no such step: {type(error).__name__}: {error}. Nothing was "
            "changed. Train with one that does, such as SGD or AdamW, while something grows."
        ) from error
    return optimizer
