"""What was kept of a network before a cut is loaded into the one that was cut."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW

from esper.kasmina.network import LiveNetwork
from tests.kasmina.networks import Convolutional, images, some_units

Told = list[tuple[str, tuple[int, ...], tuple[int, ...]]]


class Kept:
    """A network in training, and what was kept of it and of its optimizer before it was cut."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.told: Told = []
        self.model = Convolutional()
        self.average = copy.deepcopy(self.model)
        self.optimizer = AdamW(self.model.parameters(), 1e-3)
        self.live = LiveNetwork(self.model, self.optimizer, images(), F.cross_entropy, (self.average,))
        self.live.earlier.tell = lambda *odd: self.told.append(odd)
        self.step()
        self.weights = copy.deepcopy(self.model.state_dict())
        self.state = copy.deepcopy(self.optimizer.state_dict())
        self.twin = copy.deepcopy(self.model)

    def step(self) -> None:
        x, y = images()
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()

    def cut(self) -> None:
        self.live.mask(some_units(self.live.anatomy, 3))
        self.live.cut_masked()


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.live.detach()


def now(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[n]) for n, value in first.items())


def test_weights_from_before_a_cut_are_not_taken_which_is_told(kept: Kept) -> None:
    kept.cut()
    before = now(kept.model)
    kept.model.load_state_dict(kept.weights)
    assert same(now(kept.model), before)
    [(name, then, by_now)] = kept.told
    assert then == tuple(kept.weights[name].shape)
    assert by_now == tuple(before[name].shape)


@pytest.mark.parametrize("load", [dict, lambda weights: {"0." + n: value for n, value in weights.items()}])
def test_so_are_they_by_whatever_wrapper_they_come(
    kept: Kept, load: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    kept.cut()
    before, weights = now(kept.model), load(kept.weights)
    wrapper = nn.Sequential(kept.model) if "0.head.bias" in weights else kept.model
    wrapper.load_state_dict(weights)
    assert same(now(kept.model), before)


def test_a_copy_that_follows_keeps_its_own_too(kept: Kept) -> None:
    kept.cut()
    before = now(kept.average)
    kept.average.load_state_dict(kept.weights)
    assert same(now(kept.average), before)


def test_weights_of_now_are_taken(kept: Kept) -> None:
    kept.cut()
    weights = {name: value + 1 for name, value in now(kept.model).items()}
    kept.model.load_state_dict(weights)
    assert same(now(kept.model), weights)
    assert not kept.told


def test_weights_of_no_moment_of_this_network_are_an_error(kept: Kept) -> None:
    kept.cut()
    kept.weights["head.weight"] = torch.zeros(7, 7)
    with pytest.raises(RuntimeError, match="size mismatch"):
        kept.model.load_state_dict(kept.weights)


def test_parameters_stay_the_same_objects_where_they_would_be_assigned(kept: Kept) -> None:
    kept.cut()
    before = dict(kept.model.named_parameters())
    kept.model.load_state_dict(kept.weights, assign=True)
    assert all(value is before[name] for name, value in kept.model.named_parameters())


def test_an_optimizer_keeps_its_state_and_goes_on(kept: Kept) -> None:
    kept.cut()
    kept.optimizer.load_state_dict(kept.state)
    kept.step()
    assert len(kept.told) == 1


def test_copies_from_before_and_pickled_ones_load_what_fits_them(kept: Kept) -> None:
    written = io.BytesIO()
    torch.save(kept.model, written)
    written.seek(0)
    kept.cut()
    for other in (kept.twin, torch.load(written, weights_only=False)):  # noqa: TID251 - as users do
        weights = {name: value + 1 for name, value in kept.weights.items()}
        other.load_state_dict(weights)
        assert same(now(other), weights)
    assert b"esper" not in written.getvalue()


def test_where_the_network_was_let_go_of_they_are_an_error(kept: Kept) -> None:
    kept.cut()
    kept.live.detach()
    with pytest.raises(RuntimeError, match="size mismatch"):
        kept.model.load_state_dict(kept.weights)


def test_a_further_optimizer_keeps_its_state_too(kept: Kept) -> None:
    other = AdamW([kept.model.get_parameter("head.weight")], 1e-3)
    kept.live.adopt(other)
    kept.live.adopt(other)  # once is enough
    kept.step()
    other.step()
    state = copy.deepcopy(other.state_dict())
    kept.cut()
    other.load_state_dict(state)
    kept.step()
    other.step()
    assert len(kept.told) == 1
