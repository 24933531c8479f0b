"""Blueprints of one's own, good and bad ones, that a worker finds by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """What a seed of these tests is: a linear map that is silent at birth; others have a fault beside."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.map = nn.Linear(like.shape[-1], like.shape[-1])
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.map(x)
        return answer


class Shrinking(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., :1]


class Doubling(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class Undefined(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * torch.nan


class Steep(Residual):
    """Its output is zero, and the gradient of its weights no number."""

    def forward(self, x: Tensor) -> Tensor:
        zero = super().forward(x)
        return torch.where(zero == 0, zero * 0.0, zero / 0.0) + (zero.sum() * 0.0).sqrt() * 0.0


class Writing(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.add_(1.0)) * 1.0


class Keeping(Residual):
    """Remembers every input that it has seen."""

    def __init__(self, like: Tensor) -> None:
        super().__init__(like)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return super().forward(x)


class Failing(Residual):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(f"no way for {list(x.shape)}")


class Sound(Residual):
    """With what usually leaks: batch statistics and dropout; and with a buffer that no state_dict has."""

    scale: Tensor

    def __init__(self, like: Tensor, *, width: int = 4) -> None:
        super().__init__(like)
        self.inner = nn.Sequential(
            nn.Linear(like.shape[-1], width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.ReLU()
        )
        self.back = nn.Linear(width, like.shape[-1])
        self.register_buffer("scale", torch.rand(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.back(self.inner(x)) * self.scale)


HOSTS = {features: nn.Linear(features, features) for features in (6, 12)}
"""Stand in for a network that a blueprint takes parameters of."""


def borrowing(like: Tensor) -> nn.Module:
    seed = Residual(like)
    seed.map = HOSTS[like.shape[-1]]
    return seed


def huge(like: Tensor) -> nn.Module:
    return nn.Linear(like.shape[-1], 1 << 40)


def hungry(like: Tensor) -> nn.Module:
    """Takes memory while it is made."""
    return Residual(torch.ones(3 << 28, device=like.device)[:6])


def hanging(like: Tensor) -> nn.Module:
    while not like.is_meta:
        time.sleep(0.01)
    return Residual(like)


def dying(like: Tensor) -> nn.Module:
    if not like.is_meta:
        os._exit(3)
    return Residual(like)


def reading(like: Tensor) -> nn.Module:
    """Its structure depends on random numbers, which an outline has not."""
    width = 2 + int(torch.randint(3, ()))
    return nn.Sequential(nn.Linear(like.shape[-1], width), Residual(torch.zeros(width)), Back(width, like))


class Back(Residual):
    def __init__(self, width: int, like: Tensor) -> None:
        super().__init__(like)
        self.map = nn.Linear(width, like.shape[-1])
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)


def no_module(like: Tensor) -> Tensor:
    return like


MAKERS: Mapping[str, Callable[..., nn.Module]] = {
    "sound": Sound,
    "shrinking": Shrinking,
    "doubling": Doubling,
    "undefined": Undefined,
    "steep": Steep,
    "writing": Writing,
    "keeping": Keeping,
    "failing": Failing,
    "borrowing": borrowing,
    "huge": huge,
    "hungry": hungry,
    "hanging": hanging,
    "dying": dying,
    "reading": reading,
}
