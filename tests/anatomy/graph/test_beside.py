"""Copies of a network elsewhere in the process are found, and those that follow it are told apart."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel

from esper.anatomy.graph import Alive, CopiesBeside


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))


class Broken(nn.Module):
    """Cannot be built, and lives on where somebody keeps the error."""

    def __init__(self) -> None:
        self.layer = nn.Linear(2, 2)  # before there is a place for it


def test_copies_elsewhere_in_the_process_are_known_by_who_holds_them() -> None:
    model = network()
    average, other = AveragedModel(model), copy.deepcopy(model)
    same = nn.Sequential(*model)  # around the very same layers
    broken = Broken.__new__(Broken)
    with pytest.raises(AttributeError):
        broken.__init__()  # type: ignore[misc]
    nn.init.zeros_(other.get_parameter("0.weight"))
    assert CopiesBeside(model).look(Alive(model)) == [average]
    assert not CopiesBeside(model, [average]).look(Alive(model))
    assert not CopiesBeside(same, [average]).look(Alive(same))


def test_modules_that_cannot_be_asked_are_no_copies() -> None:
    model = network()
    lazy = nn.Sequential(nn.LazyLinear(12), nn.ReLU(), nn.LazyLinear(4))
    sparse = copy.deepcopy(model)
    sparse.get_submodule("0").weight = nn.Parameter(model.get_parameter("0.weight").detach().to_sparse())
    assert not CopiesBeside(model).look(Alive(model))
    assert len(lazy) == len(sparse) == 3  # they are still held


def test_a_copy_that_nobody_holds_any_more_is_none() -> None:
    model = network()
    gone = copy.deepcopy(model)
    gone.circle = [gone]  # type: ignore[assignment]  # only the garbage collector clears it away
    del gone
    assert not CopiesBeside(model).look(Alive(model))


def test_a_module_that_is_loaded_from_the_network_follows_it_also_if_it_never_held_the_same() -> None:
    model, target = network(), network()
    beside = CopiesBeside(model)
    assert not beside.look(Alive(model))
    assert not beside.follower(Alive(model))
    target.load_state_dict(model.state_dict())
    assert beside.follower(Alive(model)) == "Sequential"
    target.append(nn.Linear(4, 4))
    assert not beside.follower(Alive(model))


def test_what_is_trained_or_stands_still_or_is_gone_follows_nobody_but_an_average_may_begin_late() -> None:
    model = network()
    trained, compared, gone = (copy.deepcopy(model) for _ in range(3))
    optimizer = SGD(trained.parameters(), 0.1)
    beside = CopiesBeside(model)
    assert len(beside.look(Alive(model))) == 3
    trained(torch.ones(2, 6)).sum().backward()
    optimizer.step()
    nn.init.zeros_(gone.get_parameter("0.weight"))
    del gone
    assert not beside.follower(Alive(model))
    average = AveragedModel(model)
    assert average in beside.look(Alive(model))
    assert beside.follower(Alive(model)) == "AveragedModel"
    assert not compared.get_parameter("0.weight").isnan().any()  # it is still held
