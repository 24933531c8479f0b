"""Small networks with an anatomy written by hand, so that these tests stand on nothing but arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from esper.anatomy import Anatomy, Group, Kind, Member, TensorInfo


def rows(width: int, each: int = 1) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Unit u owns the coordinates u * each .. u * each + each - 1."""
    return np.arange(width * each, dtype=np.int64).reshape(width, each)


def anatomy_of(network: nn.Module, *groups: Group) -> Anatomy:
    tensors = tuple(
        [TensorInfo(n, tuple(p.shape), True) for n, p in network.named_parameters()]
        + [TensorInfo(n, tuple(b.shape), False) for n, b in network.named_buffers()]
    )
    return Anatomy(tensors=tensors, groups=groups, frozen=(), terms=())


class Residual(nn.Module):
    """conv -> norm -> (+ conv2(conv1)) -> pool -> linear: one coupled stage of 4 channels, one inner of 3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(4, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        stem = torch.relu(self.norm(self.stem(images)))
        features = torch.relu(stem + self.conv2(torch.relu(self.conv1(stem))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def residual() -> tuple[Residual, Anatomy]:
    torch.manual_seed(0)
    network = Residual()
    stage = Group(
        "stem",
        Kind.CHANNEL,
        4,
        (
            Member("stem.weight", 0, rows(4), "producer"),
            Member("stem.bias", 0, rows(4), "producer"),
            Member("conv2.weight", 0, rows(4), "producer"),
            Member("norm.weight", 0, rows(4), "companion"),
            Member("norm.bias", 0, rows(4), "companion"),
            Member("norm.running_mean", 0, rows(4), "companion"),
            Member("conv1.weight", 1, rows(4), "consumer"),
            Member("head.weight", 1, rows(4), "consumer"),
        ),
    )
    inner = Group(
        "conv1",
        Kind.CHANNEL,
        3,
        (
            Member("conv1.weight", 0, rows(3), "producer"),
            Member("conv1.bias", 0, rows(3), "producer"),
            Member("conv2.weight", 1, rows(3), "consumer"),
        ),
    )
    return network, anatomy_of(network, stage, inner)


class Two(nn.Module):
    """Two linear layers with `width` hidden units of `each` coordinates."""

    def __init__(self, width: int, each: int = 1) -> None:
        super().__init__()
        self.up = nn.Linear(3, width * each)
        self.down = nn.Linear(width * each, 2)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.up(x))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.hidden(x))
        return out


def two(width: int = 5, each: int = 1) -> tuple[Two, Anatomy]:
    torch.manual_seed(0)
    network = Two(width, each)
    group = Group(
        "up",
        Kind.CHANNEL if each == 1 else Kind.HEAD,
        width,
        (
            Member("up.weight", 0, rows(width, each), "producer"),
            Member("up.bias", 0, rows(width, each), "producer"),
            Member("down.weight", 1, rows(width, each), "consumer"),
        ),
    )
    return network, anatomy_of(network, group)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        network(inputs).square().mean().backward()
        optimizer.step()
