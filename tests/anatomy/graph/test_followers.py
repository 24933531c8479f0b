"""Frozen copies of trained parts are known by what they hold."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from esper.anatomy.graph.followers import followers_in
from esper.kasmina import LiveNetwork


class Momentum(nn.Module):
    """A part that is trained, and an average of it that it is to agree with (BYOL)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.online = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predict = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.predict(self.online(x)), self.target(x).detach()

    @torch.no_grad()
    def average(self) -> None:
        for own, other in zip(self.online.parameters(), self.target.parameters(), strict=True):
            other.data = 0.9 * other.data + 0.1 * own.data


def test_a_copy_is_frozen_and_holds_the_same_and_that_not_by_chance() -> None:
    model = Momentum()
    names = ("0.weight", "0.bias", "2.weight", "2.bias")
    assert followers_in(model) == {f"target.{name}": f"online.{name}" for name in names}
    assert not followers_in(Momentum().requires_grad_(True))
    model.target.get_parameter("0.weight").data.mul_(2.0)
    assert followers_in(model) == {f"target.2.{name}": f"online.2.{name}" for name in ("weight", "bias")}
    norms = nn.Sequential(nn.LayerNorm(4), nn.LayerNorm(4).requires_grad_(False))
    assert not followers_in(norms)


def test_copies_are_cut_like_what_they_follow_also_after_they_have_drifted_apart() -> None:
    model = Momentum()
    sample = torch.randn(8, 6), torch.zeros(8)
    network = LiveNetwork(
        model, AdamW(model.parameters()), sample, lambda out, _: (out[0] - out[1]).square().mean()
    )
    for left in (11, 10):
        keep = np.ones(network.anatomy.num_units, bool)
        keep[network.cuttable_units().nonzero()[0][0]] = False
        network.mask(keep)
        network.cut_masked()
        shapes = [model.get_parameter(f"{part}.0.weight").shape for part in ("online", "target")]
        assert shapes == [(left, 6)] * 2
        with torch.no_grad():
            model.get_parameter("online.0.weight").add_(1.0)
        model.average()
    network.detach()
