"""A place in a copy of a network shows what stands in the network's own place."""

from __future__ import annotations

import copy
import gc
import weakref

import torch
from torch import nn

from esper.kasmina.seeds.layer import Grown, KasminaLayer
from esper.kasmina.seeds.place import Place

CPU = torch.device("cpu")


class Grounds:
    """A network with a seed, and a frozen copy of it in double precision."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
        self.copy = copy.deepcopy(self.model).double().requires_grad_(False)
        self.place = Place(self.model, "0", [self.copy])
        self.seed = nn.Linear(4, 4)
        self.layer = KasminaLayer(self.model[0], self.seed, CPU)
        self.layer.alpha.fill_(0.5)

    def weight(self) -> torch.Tensor:
        """Of the copy's own seed."""
        seed = self.copy[0].seed
        assert isinstance(seed, nn.Linear)
        return seed.weight

    def join(self) -> None:
        self.layer.is_joined = True
        self.place.stand(self.layer)


def test_until_a_seed_is_joined_the_copy_answers_with_its_values_and_lists_nothing_of_it() -> None:
    at = Grounds()
    at.place.stand(at.layer)
    nn.init.ones_(at.seed.weight)
    x = torch.randn(8, 4)
    torch.testing.assert_close(at.copy(x.double()).float(), at.model(x))
    assert len(list(at.copy.parameters())) == 2


def test_once_it_is_joined_the_copy_keeps_values_of_its_own_also_over_a_time_without_it() -> None:
    at = Grounds()
    at.place.stand(at.layer)
    nn.init.ones_(at.seed.weight)
    at.join()
    assert torch.equal(at.weight(), torch.ones(4, 4).double())  # the last that it had in the network
    assert not any(parameter.requires_grad for parameter in at.copy.parameters())
    assert len(list(at.copy.parameters())) == len(list(at.model.parameters())) == 4
    at.weight().fill_(3.0)
    at.place.stand(at.layer.host)
    assert type(at.copy[0]) is nn.Linear
    at.place.stand(at.layer)
    assert torch.equal(at.weight(), torch.full((4, 4), 3.0).double())
    at.place.stand(Grown(at.layer.host, at.layer.seed))
    assert torch.equal(at.weight(), torch.full((4, 4), 3.0).double())


def test_values_of_the_copy_come_back_from_a_state_and_without_one_are_those_of_the_network() -> None:
    at = Grounds()
    at.join()
    (along,) = at.place.along
    at.weight().fill_(3.0)
    saved = copy.deepcopy(along.values())
    at.weight().fill_(4.0)
    along.load(saved)
    assert torch.equal(at.weight(), torch.full((4, 4), 3.0).double())
    along.load(None)
    assert torch.equal(at.weight().float(), at.seed.weight)


def test_what_is_set_for_a_look_no_copy_sees_and_a_seed_that_adds_nothing_counts_as_none() -> None:
    at = Grounds()
    at.place.module = at.layer
    assert type(at.copy[0]) is nn.Linear
    at.layer.number = 1
    at.place.stand(at.layer)
    assert type(at.copy[0]) is nn.Linear


def test_where_a_module_has_no_parameters_a_seed_is_made_like_those_of_the_network() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to("meta")
    copied = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).double().requires_grad_(False)
    place = Place(model, "1", [copied])
    assert place.device == torch.device("meta")
    place.stand(Grown(place.module, nn.Linear(4, 4)))
    grown = copied[1]
    assert isinstance(grown, Grown)
    own = next(grown.seed.parameters())
    assert (own.dtype, own.device, own.requires_grad) == (torch.float64, CPU, False)


def test_another_seed_in_the_same_place_is_another_one_in_the_copy() -> None:
    at = Grounds()
    at.place.stand(at.layer)
    later = KasminaLayer(at.layer.host, nn.Linear(4, 4), CPU)
    later.alpha.fill_(0.5)
    at.place.stand(later)
    x = torch.randn(8, 4)
    torch.testing.assert_close(at.copy(x.double()).float(), at.model(x))


def test_a_copy_holds_no_seed_that_has_gone() -> None:
    at = Grounds()
    at.place.stand(at.layer)
    at.place.stand(at.layer.host)
    seed = weakref.ref(at.seed)
    del at.layer, at.seed
    gc.collect()
    assert seed() is None
