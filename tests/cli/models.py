"""Functions that a user could point `esper inspect` at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def small() -> tuple[nn.Module, torch.Tensor]:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return network, torch.zeros(2, 6)


Judged = tuple[
    nn.Module, tuple[torch.Tensor, torch.Tensor], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
]


def judged() -> Judged:
    """With a loss, so that held-out samples can decide."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    return network, (torch.zeros(2, 6), torch.zeros(2, dtype=torch.long)), nn.functional.cross_entropy


def nothing() -> None:
    return None


class Refusing(nn.Module):
    """Depends on data in a way that no export can follow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


def untraceable() -> tuple[nn.Module, torch.Tensor]:
    return Refusing(), torch.zeros(2, 6)


class Layered(nn.Module):
    """With a layer that it could leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        scores: torch.Tensor = self.head(x + self.layer(x))
        return scores


def layered() -> tuple[nn.Module, torch.Tensor]:
    return Layered(), torch.zeros(2, 6)


class Normed(nn.Module):
    """With a norm over its stream, and two units that are there twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.up, self.head = (
            nn.Linear(6, 8),
            nn.LayerNorm(8),
            nn.Linear(8, 6),
            nn.Linear(6, 3),
        )
        with torch.no_grad():
            self.up.weight[4], self.up.bias[4] = self.up.weight[1], self.up.bias[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.up(self.norm(self.stem(x))).relu())
        return scores


def normed() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Normed(), torch.ones(2, 6)
