"""Functions that a user could point `esper inspect` at."""

from __future__ import annotations

import torch
from torch import nn


def small() -> tuple[nn.Module, torch.Tensor]:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return network, torch.zeros(2, 6)


def nothing() -> None:
    return None


class Refusing(nn.Module):
    """Depends on data in a way that no export can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


def untraceable() -> tuple[nn.Module, torch.Tensor]:
    return Refusing(), torch.zeros(2, 6)
