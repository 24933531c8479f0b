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
from esper.elesh import look_at_twin, measure_units


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


def opened(model: nn.Module, sample: Any, reduction: str = "mean") -> tuple[Twin, Anatomy, dict[str, Tensor]]:
    traced = trace(model, sample, nn.CrossEntropyLoss(reduction=reduction))
    state = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    return Twin.of(traced), anatomy_of(traced, model), state


def batch(count: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, *shape, generator=generator), torch.randint(3, (count,), generator=generator)


def other(count: int, *shape: int) -> tuple[Tensor, Tensor]:
    x, y = batch(count, *shape)
    return x.flip(0) + 0.5, y


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
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_slopes_are_activation_times_gradient_of_single_samples(
    model: Perceptron | Convolution, shape: tuple[int, ...], reduction: str
) -> None:
    twin, anatomy, state = opened(model, batch(4, *shape), reduction)
    batches = [batch(3, *shape), batch(18, *shape)]
    measures = measure_units(twin, anatomy, state, batches)
    expected = torch.cat([slopes(model, *each) for each in batches]).double()
    assert measures.samples == 21
    assert measures.slope == pytest.approx(expected.mean(0).numpy(), abs=1e-6)
    assert measures.taylor == pytest.approx(expected.abs().mean(0).numpy(), abs=1e-6)
    assert measures.variance == pytest.approx(expected.var(0).numpy(), abs=1e-6)


@pytest.mark.parametrize(("model", "shape"), [(Perceptron(), (5,)), (Convolution(), (1, 6, 6))])
def test_the_frequency_is_the_share_of_active_values(
    model: Perceptron | Convolution, shape: tuple[int, ...]
) -> None:
    twin, anatomy, state = opened(model, batch(4, *shape))
    batches = [batch(3, *shape), batch(18, *shape)]
    frequency = measure_units(twin, anatomy, state, batches, threshold=0.1).activation_frequency
    read = []
    for x, _ in batches:
        model(x)
        read.append(model.hidden.mean((2, 3)) if model.hidden.dim() > 2 else model.hidden)
    shares = (torch.cat(read) > 0.1).double().mean(0)
    assert frequency == pytest.approx(shares.numpy(), abs=1e-9)
    assert 0 < frequency.min() < frequency.max()


def test_a_network_for_one_batch_size_is_measured_batch_by_batch() -> None:
    model = OneSize()
    twin, anatomy, state = opened(model, batch(4, 5))
    assert not twin.is_batch_dynamic
    whole = [slopes(Perceptron(), *each).double() for each in (batch(4, 5), other(4, 5))]
    measures = measure_units(twin, anatomy, state, [batch(4, 5), other(4, 5)])
    means = torch.stack([part.mean(0) for part in whole])
    assert measures.samples == 8
    assert measures.slope == pytest.approx(means.mean(0).numpy(), abs=1e-6)
    assert measures.variance == pytest.approx(4 * means.var(0).numpy(), abs=1e-6)


class Merged(Perceptron):
    """Two rows to a sample, which lie in one axis with the samples: together, or in turn."""

    def __init__(self, *, in_turn: bool) -> None:
        super().__init__()
        self.in_turn = in_turn

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 2, 5)
        rows = rows.transpose(0, 1).reshape(-1, 5) if self.in_turn else rows.reshape(-1, 5)
        self.hidden = torch.relu(self.up(rows))
        out: Tensor = self.down(self.hidden)
        return out.reshape(2, -1, 3).mean(0) if self.in_turn else out.reshape(-1, 2, 3).mean(1)


class Unordered(Merged):
    """The rows of all samples, from the last to the first."""

    def forward(self, x: Tensor) -> Tensor:
        self.hidden = torch.relu(self.up(x.reshape(-1, 5).flip(0)))
        out: Tensor = self.down(self.hidden).flip(0).reshape(-1, 2, 3).mean(1)
        return out


@pytest.mark.parametrize(
    ("model", "is_told_apart"),
    [(Merged(in_turn=False), True), (Merged(in_turn=True), True), (Unordered(in_turn=False), False)],
)
def test_samples_that_lie_in_one_axis_with_positions_are_told_apart_where_their_order_shows(
    model: Merged, is_told_apart: bool
) -> None:
    twin, anatomy, state = opened(model, batch(4, 10))
    samples, rows = batch(256, 10), []
    measures = measure_units(twin, anatomy, state, [samples])
    for x, y in zip(*samples, strict=True):
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), model.hidden)
        rows.append((model.hidden * gradient).sum(0).detach())
    expected = torch.stack(rows).double()
    assert measures.is_per_sample.all() == measures.is_per_sample.any() == is_told_apart
    assert measures.slope == pytest.approx(expected.mean(0).numpy(), abs=1e-6)
    if is_told_apart:
        assert measures.variance == pytest.approx(expected.var(0).numpy(), abs=1e-6)
    assert 0.6 < np.mean(measures.variance / expected.var(0).numpy()) < 1.5


def test_without_samples_nothing_is_known() -> None:
    twin, anatomy, state = opened(Perceptron(), batch(4, 5))
    measures = measure_units(twin, anatomy, state, [])
    for values in (measures.slope, measures.predicted(), measures.activation_frequency):
        assert np.isnan(values).all()
    signals, rises = look_at_twin(twin, anatomy, state, [batch(7, 5)], samples=7, with_frequency=True)
    assert not signals
    assert rises.size == 0


def test_a_look_takes_no_more_samples_than_it_may() -> None:
    twin, anatomy, state = opened(Perceptron(), batch(4, 5))
    x, y = batch(18, 5)
    signals, _ = look_at_twin(
        twin, anatomy, state, [(x[:10], y[:10]), (x[10:], y[10:])], samples=12, with_frequency=False
    )
    few = measure_units(twin, anatomy, state, [(x[:12], y[:12])])
    assert signals.keys() == {"twin"}
    np.testing.assert_allclose(signals["twin"], few.predicted(), rtol=1e-4, atol=1e-9)


def test_measuring_changes_neither_weights_nor_samples() -> None:
    twin, anatomy, state = opened(Convolution(), batch(4, 1, 6, 6))
    before = {name: tensor.clone() for name, tensor in state.items()}
    samples = batch(6, 1, 6, 6)
    measure_units(twin, anatomy, state, [samples])
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())
    assert torch.equal(samples[0], batch(6, 1, 6, 6)[0])
