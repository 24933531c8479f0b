"""Choices by measured loss: the target is met, floors hold, and what is cheap goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of
from esper.arrays import BoolArray
from esper.batches import HeldOut
from esper.elesh import OpenCase
from esper.emrakul.plan.by_loss import choose_by_loss
from esper.emrakul.settings import Settings
from esper.errors import ConfigError


def opened(model: nn.Module, sample: Any) -> OpenCase:
    traced = trace(model.eval(), sample, F.cross_entropy)
    anatomy = anatomy_of(traced, model)
    state = {n: p.detach() for n, p in (*model.named_parameters(), *model.named_buffers())}
    return OpenCase(Twin.of(traced), anatomy, state, np.ones(anatomy.num_units, np.bool_))


def batches(count: int = 4) -> tuple[Any, ...]:
    random = torch.Generator().manual_seed(0)
    return tuple(
        (torch.randn(32, 6, generator=random), torch.randint(0, 3, (32,), generator=random))
        for _ in range(count)
    )


def three_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))


def settings(flops: float = 0.3, **more: Any) -> Settings:
    return Settings.model_validate({"target": {"flops": flops}, **more})


def test_the_target_is_met_in_steps_and_floors_hold() -> None:
    case = opened(three_layers(), batches()[0])
    choice = choose_by_loss(case, HeldOut(batches(), ()), settings(floors={"min_keep_fraction": 0.6}))
    assert len(choice.plans) == 3
    assert case.anatomy.flops(choice.keep) <= 0.7 * case.anatomy.flops()
    for number in range(2):
        assert choice.keep[case.anatomy.unit_slice(number)].sum() >= 0.6 * 24
    gone = np.flatnonzero(~choice.keep[:24])
    assert not choice.state["0.weight"][gone].any()
    assert not choice.state["2.weight"][:, gone].any()


def test_units_that_others_can_stand_in_for_go_first() -> None:
    model = three_layers()
    with torch.no_grad():
        weights = dict(model.named_parameters())
        weights["0.weight"][12:], weights["0.bias"][12:] = weights["0.weight"][:12], weights["0.bias"][:12]
    case = opened(model, batches()[0])
    choice = choose_by_loss(case, HeldOut(batches(), ()), settings(0.2))
    first = choice.keep[:24]
    assert (first[:12] | first[12:]).all()  # one of each pair stays
    assert (~first).sum() > (~choice.keep[24:]).sum()


def test_only_what_is_allowed_goes() -> None:
    case = opened(three_layers(), batches()[0])
    allowed: BoolArray = np.arange(48) < 24
    heard: list[float] = []
    choice = choose_by_loss(case, HeldOut(batches(), ()), settings(0.2), allowed=allowed, told=heard.append)
    assert heard == sorted(heard)
    assert 0 < heard[0] < heard[-1] == 1.0
    assert choice.keep[24:].all()
    assert not choice.keep[:24].all()


def test_alike_layers_keep_the_same_width() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 6)) for _ in range(3)
            )
            self.head = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = x + block(x)
            out: torch.Tensor = self.head(x)
            return out

    torch.manual_seed(0)
    case = opened(Layers(), batches()[0])
    choice = choose_by_loss(case, HeldOut(batches(), ()), settings(0.25), homogeneous=True)
    inner = [n for n, group in enumerate(case.anatomy.groups) if group.width == 20]
    widths = {int(choice.keep[case.anatomy.unit_slice(n)].sum()) for n in inner}
    assert len(inner) == 3
    assert len(widths) == 1
    assert widths < {*range(20)}


def test_a_loss_that_is_no_number_takes_nothing_away() -> None:
    model = three_layers()
    with torch.no_grad():
        next(model.parameters())[3, 3] = float("nan")
    choice = choose_by_loss(opened(model, batches()[0]), HeldOut(batches(), ()), settings(0.2))
    assert choice.keep.all()
    assert any("0.0% of the flops can go" in note for note in choice.notes)


@pytest.mark.parametrize(
    ("asked", "count", "said"), [(Settings(), 4, "needs a target"), (settings(), 1, "two batches or more")]
)
def test_a_question_without_an_answer_is_refused(asked: Settings, count: int, said: str) -> None:
    case = opened(three_layers(), batches()[0])
    with pytest.raises(ConfigError, match=said):
        choose_by_loss(case, HeldOut(batches(count), ()), asked)
