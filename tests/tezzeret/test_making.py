"""A seed is made whole, or as an outline that is filled: the same bits, and nothing outside is touched."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.tezzeret.blueprints import BLUEPRINTS, blueprint
from esper.tezzeret.making import filled, held, made, outline
from esper.tezzeret.order import KernelOrder
from tests.tezzeret.makers import HOSTS, MAKERS, no_module
from tests.tezzeret.shelves import order

CPU = torch.device("cpu")


def both(wanted: KernelOrder, maker: object) -> tuple[nn.Module, nn.Module | None]:
    assert callable(maker)
    whole, bare = made(wanted, maker, CPU), outline(wanted, maker)
    return whole, bare and filled(bare, held(whole))


@pytest.mark.parametrize("name", [*BLUEPRINTS, "sound"])
def test_an_outline_with_the_weights_computes_what_the_whole_computes(name: str) -> None:
    shape = (4, 5, 6) if name == "attention" else (4, 6, 3, 3) if "o" in name and name != "sound" else (4, 6)
    wanted = KernelOrder("0", 1, name, "", {}, shape, number=7)
    maker = MAKERS.get(name) or blueprint(name, {})
    whole, light = both(wanted, maker)
    assert light is not None
    assert [n for n, _ in light.named_parameters()] == [n for n, _ in whole.named_parameters()]
    for one, other in zip(held(whole).values(), held(light).values(), strict=True):
        assert torch.equal(one, other)
    x = torch.randn(shape)
    for seed in (whole, light):
        torch.manual_seed(1)
        seed(x).sum().backward()
    for p, q in zip(whole.parameters(), light.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        assert p.grad is None or torch.equal(p.grad, q.grad)  # type: ignore[arg-type]


def test_tensors_of_two_names_stay_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(6, 6), nn.Linear(6, 6)
            self.other.weight = self.one.weight

    _, light = both(order("sound"), lambda _: Tied())
    assert isinstance(light, Tied)
    assert light.one.weight is light.other.weight


def test_a_recurrent_module_learns_through_the_weights_that_it_lists() -> None:
    whole, light = both(order("sound"), lambda like: nn.LSTM(6, 3))
    assert light is not None
    x = torch.randn(4, 6)
    assert torch.equal(whole(x)[0], light(x)[0])
    light(x)[0].sum().backward()
    assert all(p.grad is not None for p in light.parameters())


def test_random_numbers_of_the_process_stay_what_they_are() -> None:
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    both(order("sound"), MAKERS["sound"])
    after = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.parametrize("name", ["reading", "borrowing"])
def test_what_reads_values_or_takes_tensors_that_were_there_has_no_outline(name: str) -> None:
    host = HOSTS[6]
    weight = host.weight
    assert outline(order(name), MAKERS[name]) is None
    assert host.weight is weight
    assert not weight.is_meta


def test_weights_of_another_seed_are_not_filled_in() -> None:
    wanted = order("sound")
    whole = made(wanted, MAKERS["sound"], CPU)
    for wrong in (
        {},
        {**held(whole), "more": torch.zeros(())},
        {**held(whole), "map.bias": torch.zeros(5)},
        {**held(whole), "map.bias": torch.zeros(6, dtype=torch.float64)},
    ):
        bare = outline(wanted, MAKERS["sound"])
        assert bare is not None
        assert filled(bare, wrong) is None


def test_what_is_no_module_is_refused() -> None:
    def failing(_: Tensor) -> nn.Module:
        raise ZeroDivisionError("depth")

    with pytest.raises(ConfigError, match=r"made a Tensor .*torch\.nn\.Module"):
        made(order("sound"), no_module, CPU)  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ConfigError, match="ZeroDivisionError: depth"):
        made(order("sound"), failing, CPU)
