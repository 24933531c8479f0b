"""Hooks on gradients that use a tensor of the parameter's shape are known by what they use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.graph import held_by_a_hook

MASK = torch.ones(4, 6)


class Freezer:
    """Keeps a mask, as the objects do that are written for this."""

    def __init__(self) -> None:
        self.mask = torch.ones(4, 6)

    def hook(self, gradient: Tensor) -> Tensor:
        return gradient * self.mask


def with_local() -> Callable[[Tensor], Tensor]:
    local = torch.ones(4, 6)
    return lambda gradient: gradient * local


def with_default() -> Callable[[Tensor], Tensor]:
    def hook(gradient: Tensor, kept: Tensor = torch.ones(4, 6)) -> Tensor:  # noqa: B008  as loops write it
        return gradient * kept

    return hook


@pytest.mark.parametrize(
    ("hook", "name"),
    [
        (lambda gradient: gradient * MASK, "MASK"),
        (with_local(), "local"),
        (with_default(), "kept"),
        (Freezer().hook, "mask"),
        (partial(torch.mul, torch.ones(4, 6)), "argument 0"),
    ],
)
def test_a_tensor_of_the_parameters_shape_is_named(hook: Callable[[Tensor], Tensor], name: str) -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    model.get_parameter("0.weight").register_hook(hook)
    assert held_by_a_hook(model) == ("0.weight", name)


def test_hooks_that_take_any_shape_are_none() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: gradient.clamp(-1.0, 1.0))
        parameter.register_hook(partial(torch.mul, torch.tensor(0.5)))
        parameter.register_post_accumulate_grad_hook(lambda _: None)
    assert held_by_a_hook(model) is None
