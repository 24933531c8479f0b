"""Twins of small networks, with everything that tier 2 needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy import Anatomy
from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of
from tests.anatomy.networks import ZOO


@dataclass(frozen=True)
class Subject:
    """A network in eval mode, its twin as a worker sees it, and a batch."""

    model: nn.Module
    twin: Twin
    anatomy: Anatomy
    batch: Any

    @property
    def state(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict(keep_vars=False))

    def group(self, name: str) -> int:
        return self.anatomy.group_named(name)


def subject(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Subject:
    """A classifier and a batch of it."""
    traced = trace(model.eval(), batch, F.cross_entropy)
    return Subject(model, Twin.from_bytes(Twin.of(traced).to_bytes()), anatomy_of(traced, model), batch)


@cache
def from_zoo(name: str) -> Subject:
    """A network of the zoo, with the distance from slightly moved outputs as its loss; it is shared."""
    case = ZOO[name]
    model, given = case.network().eval(), case.input()
    with torch.no_grad():
        output = model(*given) if isinstance(given, tuple) else model(given)
    moved = output + torch.randn(output.shape, generator=torch.Generator().manual_seed(3)) * 0.1
    batch = (given, moved)
    traced = trace(model, batch, F.mse_loss)
    return Subject(model, Twin.from_bytes(Twin.of(traced).to_bytes()), anatomy_of(traced, model), batch)
