"""What one step says of every unit, under real optimizers: whole, once, and never what must not count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tests.importance.networks import residual, two
from tests.importance.steps import backward, loss, sgd, step, tracker_of

MakeOptimizer = Callable[[nn.Module], torch.optim.Optimizer]


def test_one_step_measures_activation_times_gradient() -> None:
    network, anatomy = two(width=4)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    inputs = torch.randn(16, 3)
    hidden = network.hidden(inputs)
    hidden.retain_grad()
    backward(network.down(hidden).square().mean())
    assert hidden.grad is not None
    expected = (hidden * hidden.grad).sum(0).abs().detach()
    optimizer.step()
    assert tracker.taylor().tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda n: torch.optim.AdamW(n.parameters(), foreach=True),
        lambda n: torch.optim.AdamW(n.parameters(), fused=True),
        lambda n: torch.optim.AdamW(n.parameters(), foreach=False),
        lambda n: torch.optim.SGD(n.parameters(), lr=0.01, fused=True),
        lambda n: torch.optim.SGD([{"params": [p]} for p in n.parameters()], lr=0.01, momentum=0.9),
    ],
)
def test_every_kind_of_step_is_measured_alike(make: MakeOptimizer) -> None:
    network, anatomy = residual()
    reference, _ = residual()
    inputs = torch.randn(2, 1, 6, 6)
    optimizer, plain = make(network), sgd(reference)
    tracker, expected = tracker_of(network, anatomy, optimizer), tracker_of(reference, anatomy, plain)
    step(network, optimizer, inputs)
    step(reference, plain, inputs)
    assert tracker.failure is None
    assert tracker.taylor().tolist() == expected.taylor().tolist()


def test_accumulated_gradients_are_seen_whole_and_once() -> None:
    network, anatomy = two()
    whole, _ = two()
    optimizer, other = sgd(network), sgd(whole)
    tracker, expected = tracker_of(network, anatomy, optimizer), tracker_of(whole, anatomy, other)
    inputs = torch.randn(8, 3)
    for half in inputs.chunk(2):
        backward(loss(network, half) / 2)
    optimizer.step()
    step(whole, other, inputs)
    assert tracker.taylor().tolist() == pytest.approx(expected.taylor().tolist(), rel=1e-4)


def test_a_gradient_that_is_not_finite_counts_for_nothing() -> None:
    network, anatomy = two(width=3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.ones(4, 3))
    before = tracker.taylor()
    for poison in (torch.inf, torch.nan):
        optimizer.zero_grad()
        backward(loss(network, torch.ones(4, 3)))
        assert network.down.weight.grad is not None
        network.down.weight.grad[0, 0] = poison
        optimizer.step()
    assert tracker.state()["samples"].tolist() == [1.0, 1.0, 1.0]
    assert tracker.taylor().tolist() == before.tolist()


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_grad_scaler_skips_is_not_counted(fused: bool) -> None:
    network, anatomy = two(width=3)
    plain, _ = two(width=3)
    optimizer, other = torch.optim.SGD(network.parameters(), lr=0.01, fused=fused), sgd(plain)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    tracker, expected = tracker_of(network, anatomy, optimizer), tracker_of(plain, anatomy, other)
    backward(scaler.scale(loss(network, torch.ones(4, 3))))
    scaler.step(optimizer)
    scaler.update()
    step(plain, other, torch.ones(4, 3))
    assert tracker.taylor().tolist() == pytest.approx(expected.taylor().tolist(), rel=1e-4)  # unscaled

    optimizer.zero_grad()
    backward(scaler.scale(loss(network, torch.ones(4, 3))))
    assert network.up.bias.grad is not None
    network.up.bias.grad[0] = torch.inf  # not even a consumer: the whole step is skipped
    before = network.down.weight.clone()
    scaler.step(optimizer)
    assert torch.equal(network.down.weight, before)
    assert tracker.state()["samples"].tolist() == [1.0, 1.0, 1.0]


def test_half_precision_parameters_are_measured() -> None:
    network, anatomy = two(width=3)
    network.to(torch.bfloat16)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.ones(4, 3, dtype=torch.bfloat16))
    assert (tracker.taylor() > 0).all()


def test_a_step_without_gradients_is_not_counted() -> None:
    network, anatomy = two(width=3)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    optimizer.step()
    assert np.isnan(tracker.taylor()).all()
    assert tracker.failure is None


def test_units_without_gradient_at_a_step_are_not_counted_at_that_step() -> None:
    network, anatomy = residual()
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    optimizer.zero_grad()
    backward(loss(network, torch.randn(2, 1, 6, 6)))
    network.conv2.weight.grad = None  # the inner group's only consumer
    optimizer.step()
    assert tracker.state()["samples"].tolist() == [1.0] * 4 + [0.0] * 3


@pytest.mark.parametrize("how", ["frozen", "left out"])
def test_a_unit_whose_consumer_is_not_trained_is_unmeasured(how: str) -> None:
    network, anatomy = residual()
    if how == "frozen":
        network.head.requires_grad_(False)
        optimizer = sgd(network)
    else:
        optimizer = torch.optim.SGD([p for n, p in network.named_parameters() if "head" not in n], lr=0.1)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.randn(2, 1, 6, 6))
    assert np.isnan(tracker.taylor()).tolist() == [True] * 4 + [False] * 3


def test_one_step_measures_the_squares_over_the_producers() -> None:
    network, anatomy = two(width=4)
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    optimizer.zero_grad()
    backward(loss(network, torch.randn(16, 3)))
    assert network.up.weight.grad is not None
    assert network.up.bias.grad is not None
    expected = (network.up.weight * network.up.weight.grad).square().sum(1)
    expected += (network.up.bias * network.up.bias.grad).square()
    expected = expected.detach()
    optimizer.step()
    assert tracker.fisher().tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("frozen", ["up", "down"])
def test_each_signal_needs_only_the_parameters_that_it_reads(frozen: str) -> None:
    network, anatomy = two(width=3)
    getattr(network, frozen).requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    tracker = tracker_of(network, anatomy, optimizer)
    step(network, optimizer, torch.randn(4, 3))
    assert np.isfinite(tracker.taylor()).all() == (frozen == "up")
    assert np.isfinite(tracker.fisher()).all() == (frozen == "down")


@pytest.mark.filterwarnings("error")
def test_of_complex_weights_both_parts_are_measured() -> None:
    network, anatomy = two(width=4)
    network.up, network.down = (nn.Linear(*sizes, dtype=torch.cfloat) for sizes in ((3, 4), (4, 2)))
    optimizer = sgd(network)
    tracker = tracker_of(network, anatomy, optimizer)
    out = network(torch.randn(16, 3, dtype=torch.cfloat))
    backward(torch.view_as_real(out).square().mean())
    weight = network.down.weight
    assert weight.grad is not None
    # [2, 4, 2]: the slope of the loss in a factor on both parts of a column.
    each = torch.view_as_real(weight.detach()) * torch.view_as_real(weight.grad)
    optimizer.step()
    assert tracker.taylor().tolist() == pytest.approx(each.sum((0, 2)).abs().tolist(), rel=1e-4)
