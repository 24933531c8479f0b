"""Where seeds come from: out of a worker, as kernels, or made in this process where no worker can do it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from esper.checkpoint import misfits
from esper.errors import CheckpointError
from esper.kasmina.seeds.kernels import Kernels
from esper.kasmina.seeds.recipe import Recipe
from esper.kasmina.seeds.world import ALONE, World
from esper.nissa import FanOut, Sink, kernel_events
from esper.tezzeret import (
    BLUEPRINTS,
    Blueprint,
    Kernel,
    KernelOrder,
    NoKernel,
    blueprint,
    filled,
    made,
    maker_of,
    outline,
)


class Nursery:
    """Has the seeds of one network made.

    Args:
        kernels: has them made off the training path; None: all are made in this process.
        given: blueprints of the user's own.
        sink: is told what people should know.
        world: the processes that train the network; the first has kernels, and all have the same seeds.
    """

    def __init__(
        self, kernels: Kernels | None, given: Mapping[str, Blueprint], sink: Sink, world: World = ALONE
    ) -> None:
        self._kernels, self._given, self._tell = kernels, dict(given), FanOut(sink).emit
        self._world = world
        self._made_here: set[str] = set()

    def check(self, name: str) -> None:
        """Refuses a blueprint that nobody knows.

        Raises:
            ConfigError: it names those that are known.
        """
        blueprint(name, self._given)

    def sized(self, recipe: Recipe, most: float) -> dict[str, Any]:
        """Options for as wide a seed as `most` parameters allow, where nobody has said how wide.

        Blueprints of the user's own have the size that they were given.
        """
        maker = BLUEPRINTS.get(recipe.blueprint)
        if recipe.blueprint in self._given or maker is None or "width" not in signature(maker).parameters:
            return recipe.options
        if "width" in recipe.options or _size(recipe, maker) <= most:
            return recipe.options

        def is_too_wide(width: int) -> bool:
            return _size(replace(recipe, options={**recipe.options, "width": width}), maker) > most

        fitting = bisect_left(range(1, max(recipe.shape) + 1), True, key=is_too_wide)
        return {**recipe.options, "width": fitting} if fitting else recipe.options

    def check_saved(self, recipe: Recipe, saved: Mapping[str, Tensor] | None) -> None:
        """Refuses a seed that cannot be made again.

        Args:
            recipe: what it is.
            saved: its weights, if it has any.

        Raises:
            ConfigError: nobody knows its blueprint; those that are known are named.
            CheckpointError: the blueprint of that name makes something else by now.
        """
        maker = blueprint(recipe.blueprint, self._given)
        if saved is None:
            return
        bare = outline(recipe, maker)
        seed = made(recipe, maker, torch.device("cpu")) if bare is None else bare
        if wrong := misfits(saved, seed.state_dict()):
            raise CheckpointError(
                f"The seed at {recipe.path} is of the blueprint {recipe.blueprint!r}, which makes another "
                f"module than when it germinated: {'; '.join(wrong[:3])}. Nothing was changed. Give the "
                "blueprint of then under that name."
            )

    def expect(self, recipe: Recipe, device: torch.device) -> None:
        """A seed will be wanted: its kernel is made ahead, if a worker can make it.

        Raises:
            ConfigError: nobody knows the blueprint.
        """
        order, _ = order_for(recipe, device, self._given)
        if order is not None and self._kernels is not None:
            self._kernels.ahead(order)

    def obtain(self, recipe: Recipe, device: torch.device, epoch: int) -> nn.Module | NoKernel:
        """A seed as it is at birth, or why there is none.

        Args:
            recipe: what it is.
            device: where it shall be.
            epoch: epochs that have ended.

        Raises:
            ConfigError: the blueprint is unknown or fails.
            RankDivergence: it makes something else in another process.
        """
        found: list[Kernel] = []

        def ask() -> NoKernel | None:
            kernel = self._kernel(recipe, device, epoch)
            if isinstance(kernel, NoKernel):
                return kernel
            found.extend([] if kernel is None else [kernel])
            return None

        missing = self._world.answer(NoKernel | None, ask)
        if missing is not None:
            return missing
        make = partial(self.make, recipe, device, *found)
        return self._world.made(make, f"what the blueprint {recipe.blueprint!r} makes")

    def _kernel(self, recipe: Recipe, device: torch.device, epoch: int) -> Kernel | NoKernel | None:
        """The kernel of a seed, or why there is none; None: it is to be made in this process."""
        if self._kernels is None:
            return None
        order, why = order_for(recipe, device, self._given)
        if order is None:
            self._tell_made_here(recipe.blueprint, why)
            return None
        return self._kernels.get(order, epoch, self._tell)

    def make(self, recipe: Recipe, device: torch.device, kernel: Kernel | None = None) -> nn.Module:
        """The seed as it is at birth.

        Args:
            recipe: what it is.
            device: where it shall be.
            kernel: has its weights; None: they are made here.

        Raises:
            ConfigError: the blueprint is unknown or fails.
        """
        if kernel is not None:
            if (seed := seed_of(kernel, device, self._given)) is not None:
                return seed
            self._tell_made_here(recipe.blueprint, "what it builds depends on values, not only on shapes")
        return recipe.make(device, self._given)

    def _tell_made_here(self, name: str, why: str) -> None:
        if name not in self._made_here:
            self._made_here.add(name)
            self._tell(kernel_events.KernelMadeHere(name, why))


def _size(recipe: Recipe, maker: Blueprint) -> int:
    """How many parameters such a seed has; 0 where only making it can tell."""
    seed = outline(recipe, maker)
    return 0 if seed is None else sum(parameter.numel() for parameter in seed.parameters())


def order_for(
    recipe: Recipe, device: torch.device, given: Mapping[str, Blueprint]
) -> tuple[KernelOrder | None, str]:
    """What a worker is to make, and why it cannot ('' if it can).

    Raises:
        ConfigError: nobody knows the blueprint.
    """
    maker, why = maker_of(recipe.blueprint, given, recipe.options)
    if why:
        return None, why
    order = KernelOrder(
        slot=recipe.path,
        generation=recipe.generation,
        blueprint=recipe.blueprint,
        maker=maker,
        options=dict(recipe.options),
        shape=tuple(recipe.shape),
        dtype=recipe.dtype,
        device=str(device),
        number=recipe.number,
    )
    return order, ""


def seed_of(kernel: Kernel, device: torch.device, given: Mapping[str, Blueprint]) -> nn.Module | None:
    """The seed with a kernel's weights; None where it cannot be built without making it whole first."""
    bare = outline(kernel.order, blueprint(kernel.order.blueprint, given))
    if bare is None:
        return None
    return filled(bare, {name: tensor.to(device, copy=True) for name, tensor in kernel.tensors.items()})
