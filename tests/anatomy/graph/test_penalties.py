"""Penalties on weights are no part of what a loss says of samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.anatomy.units import inspect

MODEL = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4))
SAMPLE = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 0, 1])
Loss = Callable[[Tensor, Tensor], Tensor]


def squares() -> Tensor:
    return torch.stack([p.square().sum() for p in MODEL.parameters()]).sum()


def divergence() -> Tensor:
    """Of weights from a distribution: not zero for weights of zero."""
    return -torch.stack([(p.abs() + 0.1).log().sum() for p in MODEL.parameters()]).sum()


def one_by_one(x: Tensor, y: Tensor) -> Tensor:
    loss = F.cross_entropy(x, y)
    for parameter in MODEL.parameters():
        loss += 0.1 * parameter.abs().sum()
    return loss


def of_each(x: Tensor, y: Tensor) -> Tensor:
    return (F.cross_entropy(x, y, reduction="none") + squares()).mean()


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: F.cross_entropy(x, y) + 0.1 * squares(),
        lambda x, y: squares() + F.cross_entropy(x, y),
        lambda x, y: (2 * F.cross_entropy(x, y) - divergence() / len(y)) / 2,
        one_by_one,
        of_each,
    ],
)
def test_what_no_sample_changes_is_left_out_of_the_loss(loss: Loss) -> None:
    traced = trace(MODEL, SAMPLE, loss)
    value, output = traced.program.module()((SAMPLE[0],), {}, SAMPLE[1])
    torch.testing.assert_close(value, F.cross_entropy(output, SAMPLE[1]))
    assert [group.width for group in inspect(MODEL, SAMPLE, loss).groups] == [8]


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: F.cross_entropy(x, y) * squares(),
        lambda x, y: squares() + 0 * y.sum(),
        lambda x, y: (F.cross_entropy(x, y) + squares()).square(),
        lambda x, y: F.cross_entropy(x, y) - x.chunk(2, dim=1)[1].exp().mean(),  # no penalty: of samples
        lambda x, y: F.cross_entropy(x, y) - x.max(dim=1).values.mean(),
    ],
)
def test_what_is_no_sum_stays_as_it_is(loss: Loss) -> None:
    with torch.no_grad():
        value, output = trace(MODEL, SAMPLE, loss).program.module()((SAMPLE[0],), {}, SAMPLE[1])
        torch.testing.assert_close(value, loss(output, SAMPLE[1]))


class Scored(nn.Module):
    """Ends in sums with parameters, as a critic of which the mean is the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.place = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = MODEL[0](x) + self.place
        return (hidden.mean(dim=1) + self.scale).view(-1), hidden


@pytest.mark.parametrize("number", [0, 1])
def test_what_a_network_adds_stays_in_what_it_gives(number: int) -> None:
    model = Scored()
    value, output = trace(model, SAMPLE, lambda x, _: x[number].mean()).program.module()(
        (SAMPLE[0],), {}, SAMPLE[1]
    )
    expected = model(SAMPLE[0])
    torch.testing.assert_close((value, output), (expected[number].mean(), expected[0]))
