"""What the twin shows of units, held against hooks on the network itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy import Anatomy
from esper.anatomy.graph import named_tensors, trace
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of
from esper.importance.twin_statistics import activation_frequency, loss_changes


class Perceptron(nn.Module):
    """10 hidden units; the hidden activation is remembered."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(5, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = torch.relu(self.up(x))
        out: Tensor = self.down(self.hidden)
        return out


class Convolution(nn.Module):
    """6 channels over 4 x 4 positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = torch.relu(self.conv(x))
        out: Tensor = self.head(self.hidden.mean((2, 3)))
        return out


class OneSize(Perceptron):
    """Works with batches of four only."""

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = torch.relu(self.up(x))
        out: Tensor = self.down((self.hidden.reshape(2, 2, 10) * torch.ones(2, 2, 1)).reshape(4, 10))
        return out


def opened(model: nn.Module, sample: Any) -> tuple[Twin, Anatomy, dict[str, Tensor]]:
    traced = trace(model, sample, F.cross_entropy)
    state = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    return Twin.of(traced), anatomy_of(traced, model), state


def batch(count: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, *shape, generator=generator), torch.randint(3, (count,), generator=generator)


def slopes(model: Perceptron | Convolution, x: Tensor, y: Tensor) -> Tensor:
    """Activation x gradient of every sample, summed over positions: [samples, units]."""
    rows = []
    for one, target in zip(x, y, strict=True):
        loss = F.cross_entropy(model(one[None]), target[None])
        (gradient,) = torch.autograd.grad(loss, model.hidden)
        rows.append((model.hidden * gradient)[0].detach().flatten(1 if one.dim() > 1 else 0))
    stacked = torch.stack(rows)
    return stacked.sum(2) if stacked.dim() > 2 else stacked


@pytest.mark.parametrize(("model", "shape"), [(Perceptron(), (5,)), (Convolution(), (1, 6, 6))])
def test_slopes_are_activation_times_gradient_of_single_samples(
    model: Perceptron | Convolution, shape: tuple[int, ...]
) -> None:
    twin, anatomy, state = opened(model, batch(4, *shape))
    batches = [batch(3, *shape), batch(18, *shape)]
    found = loss_changes(twin, anatomy, state, batches)
    expected = torch.cat([slopes(model, *each) for each in batches]).double()
    assert found.samples == 21
    assert found.mean == pytest.approx(expected.mean(0).numpy(), abs=1e-6)
    assert found.size == pytest.approx(expected.abs().mean(0).numpy(), abs=1e-6)
    assert found.square == pytest.approx(expected.square().mean(0).numpy(), abs=1e-6)


@pytest.mark.parametrize(("model", "shape"), [(Perceptron(), (5,)), (Convolution(), (1, 6, 6))])
def test_the_frequency_is_the_share_of_active_values(
    model: Perceptron | Convolution, shape: tuple[int, ...]
) -> None:
    twin, anatomy, state = opened(model, batch(4, *shape))
    batches = [batch(3, *shape), batch(18, *shape)]
    found = activation_frequency(twin, anatomy, state, batches, threshold=0.1)
    read = []
    for x, _ in batches:
        model(x)
        read.append(model.hidden.mean((2, 3)) if model.hidden.dim() > 2 else model.hidden)
    shares = (torch.cat(read) > 0.1).double().mean(0)
    assert found == pytest.approx(shares.numpy(), abs=1e-9)
    assert 0 < found.min() < found.max()


def test_a_network_for_one_batch_size_is_measured_batch_by_batch() -> None:
    model = OneSize()
    twin, anatomy, state = opened(model, batch(4, 5))
    assert not twin.is_batch_dynamic
    found = loss_changes(twin, anatomy, state, [batch(4, 5)] * 2)
    loss = F.cross_entropy(model(batch(4, 5)[0]), batch(4, 5)[1])
    (gradient,) = torch.autograd.grad(loss, model.hidden)
    expected = (model.hidden * gradient).detach().sum(0).double()
    assert found.samples == 2
    assert found.mean == pytest.approx(expected.numpy(), abs=1e-6)
    assert found.square == pytest.approx(expected.square().numpy(), abs=1e-6)


def test_without_samples_nothing_is_known() -> None:
    twin, anatomy, state = opened(Perceptron(), batch(4, 5))
    found = loss_changes(twin, anatomy, state, [])
    assert np.isnan(found.mean).all()
    assert np.isnan(activation_frequency(twin, anatomy, state, [])).all()


def test_measuring_changes_neither_weights_nor_samples() -> None:
    twin, anatomy, state = opened(Convolution(), batch(4, 1, 6, 6))
    before = {name: tensor.clone() for name, tensor in state.items()}
    samples = batch(6, 1, 6, 6)
    loss_changes(twin, anatomy, state, [samples])
    activation_frequency(twin, anatomy, state, [samples])
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())
    assert torch.equal(samples[0], batch(6, 1, 6, 6)[0])
