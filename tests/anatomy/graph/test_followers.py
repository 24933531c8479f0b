"""Frozen copies of trained parts are known by what they hold."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel

from esper.anatomy.graph.followers import copies_beside, followers_in
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


class Broken(nn.Module):
    """Cannot be built, and lives on where somebody keeps the error."""

    def __init__(self) -> None:
        self.layer = nn.Linear(2, 2)  # before there is a place for it


def test_copies_elsewhere_in_the_process_are_known_by_who_holds_them() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    average, other = AveragedModel(model), copy.deepcopy(model)
    same = nn.Sequential(*model)  # around the very same layers
    broken = Broken.__new__(Broken)
    with pytest.raises(AttributeError):
        broken.__init__()  # type: ignore[misc]
    nn.init.zeros_(other.get_parameter("0.weight"))
    assert copies_beside(model) == [average]
    assert not copies_beside(model, [average])
    assert not copies_beside(same, [average])


def test_modules_that_cannot_be_asked_are_no_copies() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    lazy = nn.Sequential(nn.LazyLinear(12), nn.ReLU(), nn.LazyLinear(4))
    sparse = copy.deepcopy(model)
    sparse.get_submodule("0").weight = nn.Parameter(model.get_parameter("0.weight").detach().to_sparse())
    assert not copies_beside(model)
    assert len(lazy) == len(sparse) == 3  # they are still held


def test_a_copy_that_nobody_holds_any_more_is_none() -> None:
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))
    gone = copy.deepcopy(model)
    gone.circle = [gone]  # type: ignore[assignment]  # only the garbage collector clears it away
    del gone
    assert not copies_beside(model)


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
