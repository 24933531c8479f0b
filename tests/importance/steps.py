"""A training step that is tracked, as the tests of tracking make it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.anatomy import Anatomy
from esper.importance.settings import ImportanceSettings
from esper.importance.tracker import ImportanceTracker
from tests.importance.networks import Two

EVERY_STEP = ImportanceSettings(stride=1, min_importance_samples=1, min_sampled_steps=1)


def loss(network: nn.Module, inputs: Tensor) -> Tensor:
    out: Tensor = network(inputs)
    return out.square().mean()


def backward(value: Tensor) -> None:
    torch.autograd.backward(value)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor) -> None:
    optimizer.zero_grad()
    backward(loss(network, inputs))
    optimizer.step()


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(network.parameters(), lr=0.01)


def tracker_of(
    network: nn.Module,
    anatomy: Anatomy,
    optimizer: torch.optim.Optimizer,
    settings: ImportanceSettings = EVERY_STEP,
) -> ImportanceTracker:
    return ImportanceTracker(anatomy, dict(network.named_parameters()), optimizer, settings)


def narrowed(network: Two, keep: list[int]) -> None:
    network.up.weight.data = network.up.weight.data[keep]
    network.up.bias.data = network.up.bias.data[keep]
    network.down.weight.data = network.down.weight.data[:, keep]
    for parameter in network.parameters():
        parameter.grad = None
