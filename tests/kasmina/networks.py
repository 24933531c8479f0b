"""Small networks whose masks are easy to get wrong, with data for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.units import inspect
from esper.arrays import BoolArray


class Tied(nn.Module):
    """An embedding that is also the classifier, and an autoencoder that reads its own weight backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.up = nn.Parameter(torch.randn(12, 8) / 3)
        self.shift = nn.Parameter(torch.randn(12) / 3)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        hidden = F.gelu(F.linear(x, self.up, self.shift))
        logits: Tensor = self.head(x + F.linear(hidden, self.up.t()))
        return logits.flatten(1)


class Convolutional(nn.Module):
    """Two branches that are added, norms, and an activation that is not zero at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.inner = nn.Sequential(
            nn.Conv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 8, 3, padding=1)
        )
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = (x + self.inner(x)).mean((2, 3))
        logits: Tensor = self.head(torch.sigmoid(self.hidden(x)))
        return logits


def images(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A batch for `Convolutional`."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 6, 6, generator=random)
    return x, torch.randint(0, 5, (count,), generator=random)


def tokens(count: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A batch for `Tied`."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 11, (count, 3), generator=random)
    return x, torch.randint(0, 33, (count,), generator=random)


def convolutional() -> tuple[nn.Module, Anatomy]:
    """The same weights every time."""
    anatomy = _anatomy(Convolutional, images)
    torch.manual_seed(0)
    return Convolutional(), anatomy


def tied() -> tuple[nn.Module, Anatomy]:
    """The same weights every time."""
    anatomy = _anatomy(Tied, tokens)
    torch.manual_seed(0)
    return Tied(), anatomy


@cache
def _anatomy(build: Callable[[], nn.Module], batch: Callable[[], tuple[Tensor, Tensor]]) -> Anatomy:
    return inspect(build(), batch(), F.cross_entropy)


def some_units(anatomy: Anatomy, every: int, *, first: int = 0) -> BoolArray:
    """A mask that removes every so-many-th unit, and never all of a group."""
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[first::every] = False
    return keep


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda m: SGD(m.parameters(), 0.1),
    "sgd momentum": lambda m: SGD(m.parameters(), 0.1, momentum=0.9, weight_decay=0.01),
    "sgd nesterov": lambda m: SGD(m.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd foreach": lambda m: SGD(m.parameters(), 0.1, momentum=0.9, weight_decay=0.01, foreach=True),
    "sgd fused": lambda m: SGD(m.parameters(), 0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "adam": lambda m: Adam(m.parameters(), 0.01, weight_decay=0.01),
    "adam amsgrad": lambda m: Adam(m.parameters(), 0.01, amsgrad=True),
    "adam foreach": lambda m: Adam(m.parameters(), 0.01, weight_decay=0.01, foreach=True),
    "adamw": lambda m: AdamW(m.parameters(), 0.01),
    "adamw foreach": lambda m: AdamW(m.parameters(), 0.01, foreach=True),
    "adamw fused": lambda m: AdamW(m.parameters(), 0.01, fused=True),
}
"""Optimizers as people use them."""
