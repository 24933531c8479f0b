"""What cannot be measured in every batch is not cut; heads that share an axis with samples can be."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.cut import cut
from esper.anatomy.graph import trace
from esper.anatomy.units import inspect, work_held
from tests.anatomy.cutting import half, probe_of


class KernelsOfSamples(nn.Module):
    """Every sample has kernels of its own, mixed from four: one convolution in as many groups as samples."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.route = nn.Conv2d(1, 6, 1), nn.Linear(6, 4)
        self.kernels, self.last = nn.Parameter(torch.randn(4, 8, 6, 3, 3)), nn.Conv2d(8, 10, 1)
        self.read = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        count, width, *size = x.shape
        mixed = torch.einsum("bk,koihw->boihw", self.route(x.mean((2, 3))).softmax(1), self.kernels)
        joined = F.conv2d(
            x.reshape(1, count * width, *size), mixed.reshape(-1, width, 3, 3), padding=1, groups=count
        )
        out: Tensor = self.read(F.relu(self.last(F.relu(joined.view(count, -1, *size)))))
        return out


def test_what_is_read_along_the_axis_of_samples_stays_and_the_rest_can_go() -> None:
    torch.manual_seed(0)
    model, x = KernelsOfSamples(), torch.randn(4, 1, 5, 5)
    anatomy = inspect(model, x)
    assert [(group.name, group.width) for group in anatomy.groups] == [("kernels", 8), ("last", 10)]
    reasons = {axis.reason: axis.width for axis in anatomy.frozen}
    assert reasons["conv2d at conv2d_1 reads it along the axis of samples"] == 6
    made = cut(model, anatomy, half(anatomy), probe_of(x))
    assert made.parameters_after < made.parameters_before


def test_that_it_stays_is_among_what_holds_the_work() -> None:
    held = work_held(trace(KernelsOfSamples(), torch.randn(4, 1, 5, 5)))
    assert held["conv2d reads it along the axis of samples"] > 0.5


class HeadsBesideSamples(nn.Module):
    """Attention as a product of matrices, with samples and heads in one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(6, 24) for _ in range(3))
        self.out = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        count, steps, _ = x.shape

        def heads(part: nn.Module) -> Tensor:
            rows: Tensor = part(x).view(count, steps, -1, 6).transpose(1, 2)
            return rows.reshape(-1, steps, 6)

        scores = torch.bmm(heads(self.query), heads(self.key).transpose(1, 2)).softmax(-1)
        mixed = torch.bmm(scores, heads(self.value)).view(count, -1, steps, 6).transpose(1, 2)
        out: Tensor = self.out(mixed.reshape(count, steps, -1))
        return out


def test_heads_that_share_an_axis_with_samples_are_measured_further_down() -> None:
    torch.manual_seed(0)
    model, x = HeadsBesideSamples(), torch.randn(3, 5, 6)
    anatomy = inspect(model, x)
    assert [(group.kind.value, group.width) for group in anatomy.groups] == [("head", 4)]
