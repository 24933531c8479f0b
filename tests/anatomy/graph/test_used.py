"""Tensors that a loop keeps are told from those that it computes with, and stay what they are."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.graph.used import Watch

Tensors = dict[str, Tensor]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))


def kept(model: nn.Module) -> Tensors:
    return copy.deepcopy(dict(model.state_dict()))


def parameters(model: nn.Module) -> Tensors:
    return {name: p.detach() for name, p in model.named_parameters()}


def stored(model: nn.Module, held: Tensors) -> None:
    torch.save(held, file := io.BytesIO())
    file.seek(0)
    again = torch.load(file, weights_only=True)  # noqa: TID251  as a loop does, and of its own file
    assert all(type(value) is Tensor for value in again.values())


def copied(model: nn.Module, held: Tensors) -> None:
    assert all(type(value) is Tensor for value in copy.deepcopy(held).values())


def read(model: nn.Module, held: Tensors) -> None:
    assert "Watched" not in repr(held)
    assert all(value.shape == held[name].shape for name, value in model.state_dict().items())
    assert sum(float(value.float().norm()) for value in held.values()) > 0
    assert held["0.weight"].numpy().shape == (12, 6)
    loss = model(torch.ones(2, 6)).sum() + held["0.weight"].norm()
    loss.backward()


def loaded(model: nn.Module, held: Tensors) -> None:
    model.load_state_dict(held)
    assert all(type(buffer) is Tensor for buffer in model.buffers())


def moved(model: nn.Module, held: Tensors) -> None:
    model.load_state_dict({name: value.to(torch.float64).clone() for name, value in held.items()})


@pytest.mark.parametrize("keeps", [stored, copied, read, loaded, moved])
def test_what_is_kept_is_not_used(keeps: Callable[[nn.Module, Tensors], None]) -> None:
    model = network()
    held = kept(model)
    then = kept(model)
    watch = Watch(held.values())
    keeps(model, held)
    assert not watch.is_used
    watch.end()
    assert all(type(value) is Tensor and not vars(value) for value in held.values())
    assert all(torch.equal(value, then[name]) for name, value in held.items())


@pytest.mark.parametrize(
    "compute",
    [
        lambda held, now: sum(((value - held[name]) ** 2).sum() for name, value in now.items()),
        lambda held, now: sum(nn.functional.mse_loss(now[name], held[name].to("cpu")) for name in now),
        lambda held, now: {name: 0.9 * held[name] + 0.1 * value for name, value in now.items()},
        lambda held, now: [held[name].mul_(0.9).add_(value, alpha=0.1) for name, value in now.items()],
        lambda held, now: [held[name].copy_(value) for name, value in now.items()],
        lambda held, now: torch._foreach_lerp_([held[name] for name in now], list(now.values()), 0.1),
        lambda held, now: (
            torch.cat([held[name].flatten() for name in now])
            - torch.cat([value.flatten() for value in now.values()])
        ),
    ],
    ids=["distance", "loss", "new average", "average", "copied into", "together", "as one vector"],
)
def test_what_is_computed_with_others_is_used(compute: Callable[[Tensors, Tensors], object]) -> None:
    model = network()
    held = kept(model)
    expected = compute(kept(model), parameters(model))
    watch = Watch(held.values())
    torch.testing.assert_close(compute(held, parameters(model)), expected)
    assert watch.is_used
    assert all(type(value) is Tensor and not vars(value) for value in held.values())


def test_weights_that_are_assigned_become_parameters() -> None:
    model = network()
    held = kept(model)
    watch = Watch(held.values())
    model.load_state_dict(held, assign=True)
    watch.end()
    assert not watch.is_used
    assert all(type(parameter) is nn.Parameter and not vars(parameter) for parameter in model.parameters())


def test_what_was_made_of_them_is_let_go_of_as_well() -> None:
    held = kept(network())
    watch = Watch(held.values())
    twice = held["0.weight"] * 2
    assert type(twice) is not Tensor
    watch.end()
    assert type(twice) is Tensor
    assert not watch.is_used
