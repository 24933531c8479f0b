"""Steps of optimizers that nobody gave are heard, by those who live and want to."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from esper.kasmina.masks import MaskKeeper
from esper.kasmina.network import LiveNetwork
from esper.kasmina.steps import Steps
from tests.kasmina.networks import Convolutional, convolutional, images, some_units
from tests.kasmina.test_masks import assert_masked


class Listening:
    def __init__(self) -> None:
        self.heard: list[Optimizer] = []

    def adopt(self, optimizer: Optimizer) -> None:
        self.heard.append(optimizer)


def stepping() -> Optimizer:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    return SGD([parameter], 0.1)


def test_every_step_of_any_optimizer_is_heard_until_nobody_wants_to() -> None:
    steps, one, other = Steps(), Listening(), Listening()
    steps.tell(one)
    steps.tell(other)
    first, second = stepping(), stepping()
    first.step()
    second.step()
    steps.tell_no_more(other)
    first.step()
    assert one.heard == [first, second, first]
    assert other.heard == [first, second]


def test_a_listener_that_nobody_holds_is_gone() -> None:
    steps, kept = Steps(), Listening()
    steps.tell(Listening())
    steps.tell(kept)
    gc.collect()
    optimizer = stepping()
    optimizer.step()
    assert len(steps._listeners) == 1
    assert kept.heard == [optimizer]


@pytest.mark.parametrize("steps_before", [0, 3])
def test_an_optimizer_that_nobody_gave_is_kept_in_check_as_well(steps_before: int) -> None:
    model, anatomy = convolutional()
    halves = list(model.parameters())
    given, other = SGD(halves[::2], 0.1, momentum=0.9), AdamW(halves[1::2], 0.01)
    elsewhere = SGD([nn.Parameter(torch.ones(2))], 0.1)
    masks = MaskKeeper(model, anatomy, (given,))
    keep = some_units(anatomy, 3)
    if not steps_before:
        masks.apply(keep)
    for step in range(6):
        if step and step == steps_before:
            masks.apply(keep)
        x, y = images(6, step)
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for optimizer in (given, other, elsewhere):
            optimizer.step()
        if not masks.keep.all():
            assert_masked(model, anatomy, keep, given)
            assert_masked(model, anatomy, keep, other)
    assert masks.optimizers == (given, other)
    masks.detach()
    SGD(halves, 0.1).step()
    assert masks.optimizers == (given, other)


def test_cuts_reach_an_optimizer_that_nobody_gave_and_are_taken_back_in_it() -> None:
    torch.manual_seed(0)
    model = Convolutional()
    parameters = list(model.parameters())
    given, other = AdamW(parameters[::2], 0.01), AdamW(parameters[1::2], 0.01)
    network = LiveNetwork(model, given, images(6, 0), F.cross_entropy)
    saved = {key: value.clone() for key, value in model.state_dict().items()}

    def both_train() -> None:
        for step in range(2):
            x, y = images(6, step)
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            given.step()
            other.step()

    both_train()
    assert network.optimizers == (given, other)
    network.masks.apply(some_units(network.anatomy, 4))
    network.cut_masked()
    assert network.optimizers == (given, other)
    assert any(p.shape != saved[name].shape for name, p in model.named_parameters())
    assert all(other.state[p]["exp_avg"].shape == p.shape for p in parameters[1::2])
    both_train()
    network.load({"changes": [], "companions": 0})
    assert all(p.shape == saved[name].shape for name, p in model.named_parameters())
    assert all(other.state[p]["exp_avg"].shape == p.shape for p in parameters[1::2])
    model.load_state_dict(saved)
    both_train()


class Lookahead(Optimizer):
    """Steps another optimizer, and writes averages into the weights every second time."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base, self.number = base, 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.base.step()
        self.number += 1
        with torch.no_grad():
            for parameter in (p for group in self.param_groups for p in group["params"]):
                slow = self.state[parameter].setdefault("slow", parameter.detach().clone())
                if self.number % 2 == 0:
                    parameter.copy_(slow.lerp_(parameter, 0.5))


def test_an_optimizer_around_another_one_is_followed_through_masks_and_cuts() -> None:
    torch.manual_seed(0)
    model = Convolutional()
    optimizer = Lookahead(AdamW(model.parameters(), 0.01))
    network = LiveNetwork(model, optimizer, images(6, 0), F.cross_entropy)
    keep = some_units(network.anatomy, 4)

    def both_train() -> None:
        for step in range(4):
            x, y = images(6, step)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    both_train()
    assert network.optimizers == (optimizer, optimizer.base)
    network.masks.apply(keep)
    both_train()
    assert network.masks.num_revived() == 0
    network.cut_masked()
    both_train()
    for one, key in ((optimizer, "slow"), (optimizer.base, "exp_avg")):
        assert all(one.state[p][key].shape == p.shape for p in model.parameters())
