"""What a seed is made by, as a value: enough to make it again in another process, and to make it a part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from esper.kasmina.seeds.layer import Grown
from esper.kasmina.seeds.owners import group_for, take_from
from esper.kasmina.seeds.place import Place
from esper.leyline import stable_id
from esper.tezzeret import Blueprint, blueprint, made


@dataclass(frozen=True)
class Recipe:
    """How the seed at one place is made.

    Attributes:
        path: of the module that it grows on.
        generation: seeds that there were at this place, this one included.
        blueprint: what makes it, with these options.
        shape: of the activations that it is made for, and their `dtype`.
    """

    path: str
    generation: int
    blueprint: str
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    dtype: str = "float32"

    @property
    def number(self) -> int:
        """What its randomness begins with."""
        return int(stable_id(self.path, str(self.generation))[:15], 16)

    def make(self, device: torch.device, given: Mapping[str, Blueprint]) -> nn.Module:
        """The seed as it is at birth.

        Args:
            device: where it shall be.
            given: the user's own blueprints.

        Raises:
            ConfigError: the blueprint is unknown or fails.
        """
        return made(self, blueprint(self.blueprint, given), device)

    def graft(
        self,
        model: nn.Module,
        given: Mapping[str, Blueprint],
        optimizer: Optimizer | None = None,
        copies: Iterable[nn.Module] = (),
    ) -> None:
        """Makes a fresh seed a part of a network and its optimizer: what it learned is loaded afterwards.

        Args:
            model: the network.
            given: the user's own blueprints.
            optimizer: of the network, if it is trained.
            copies: of the network, of which a seed becomes a part too.

        Raises:
            UnknownPathError: the network has no such place.
            ConfigError: see `make`.
        """
        place = Place(model, self.path, copies)
        host = place.module
        seed = self.make(place.device, given)
        place.stand(Grown(host, seed))
        if optimizer is not None:
            group = optimizer.param_groups[group_for(optimizer, host)]
            group["params"].extend(p for p in seed.parameters() if p.requires_grad)

    def prune(
        self, model: nn.Module, optimizer: Optimizer | None = None, copies: Iterable[nn.Module] = ()
    ) -> None:
        """Takes the seed out of the network, its optimizer and its copies again."""
        place = Place(model, self.path, copies)
        grown = place.module
        assert isinstance(grown, Grown)  # noqa: S101 (nobody else stands there)
        if optimizer is not None:
            take_from(optimizer, grown.seed.parameters())
        place.stand(grown.host)
