"""One network is held by one pair of hands at a time."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn
from torch.optim import SGD

from esper.errors import ConfigError
from esper.kasmina.held import Hands


class Holding:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer: torch.optim.Optimizer = SGD(model.parameters(), 0.1)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))


def test_a_network_a_part_of_it_and_its_optimizer_are_refused_until_they_are_let_go() -> None:
    hands, holder = Hands(), Holding(network())
    hands.take(holder)
    for model in holder.model, *holder.model.children():
        with pytest.raises(ConfigError, match=r"holds this .* already.*session\.detach\(\)"):
            hands.refuse_held(model, ())
    with pytest.raises(ConfigError, match="holds this SGD already"):
        hands.refuse_held(network(), [holder.optimizer])
    hands.refuse_held(network(), [SGD(network().parameters(), 0.1)])
    hands.let_go(holder)
    hands.refuse_held(holder.model, [holder.optimizer])


def test_a_holder_that_nobody_knows_any_more_holds_nothing() -> None:
    hands = Hands()
    model = network()
    hands.take(Holding(model))
    gc.collect()
    hands.refuse_held(model, ())
