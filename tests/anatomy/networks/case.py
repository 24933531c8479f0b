"""One network of the zoo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """A network, its input, and what an inspection must find: groups of heads, and how much can go at all."""

    build: Callable[[], nn.Module]
    sample: Callable[[], Any]
    groups: int
    """Groups that must be found."""
    heads: int = 0
    """How many of them are attention heads."""
    frozen_by: tuple[str, ...] = ()
    """Operators that must be named by the reasons of what is frozen."""

    def network(self) -> nn.Module:
        """The same weights every time, with running statistics that are not the identity."""
        torch.manual_seed(0)
        model = self.build()
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer) * 0.5)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norms that are not 0 and 1
                parameter.data.add_(torch.rand_like(parameter) * 0.1)
        return model

    def input(self) -> Any:
        torch.manual_seed(1)
        return self.sample()


def images(channels: int = 3, size: int = 16) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, channels, size, size)


def sequences(width: int = 32, length: int = 7) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, length, width)


def tokens(vocabulary: int = 50, length: int = 12) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, vocabulary, (2, length))
