"""An order names its artifact, and a worker finds what makes it; or it is said why none could."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.leyline.wire import messages, parsed
from esper.tezzeret.blueprints import mlp
from esper.tezzeret.order import found, maker_of
from tests.tezzeret.makers import Sound
from tests.tezzeret.shelves import order


def test_blueprints_of_ones_own_that_stand_at_the_top_of_a_module_are_found_again() -> None:
    maker, why = maker_of("mine", {"mine": Sound}, {})
    assert not why
    assert found(maker) is Sound
    maker, why = maker_of("mlp", {}, {"width": 3})
    assert not why
    assert found(maker) is mlp


def test_ones_own_blueprint_takes_the_name_of_one_of_ours() -> None:
    maker, _ = maker_of("mlp", {"mlp": Sound}, {})
    assert found(maker) is Sound


def test_what_no_worker_could_find_is_told_apart() -> None:
    def local(like: Tensor) -> nn.Module:
        return Sound(like)

    for function in (local, lambda like: local(like), partial(Sound, width=2)):  # noqa: PLW0108 (about lambdas)
        maker, why = maker_of("mine", {"mine": function}, {})
        assert not maker
        assert "top of a module" in why
    assert "JSON" in maker_of("mlp", {}, {"width": Path()})[1]
    with pytest.raises(ConfigError, match="no blueprint 'tree'"):
        maker_of("tree", {}, {})
    with pytest.raises(ConfigError, match="no gone:away"):
        found("place:gone:away")


def test_equal_orders_have_one_name_and_others_have_another() -> None:
    one = order("mlp", width=3)
    assert one.name == order("mlp", width=3).name
    others = [
        order("mlp", width=4),
        order("low_rank"),
        order("mlp", slot="layers.1", width=3),
        order("mlp", generation=2, width=3),
        replace(one, shape=(8, 7)),
        replace(one, dtype="float64"),
        replace(one, device="cuda:0"),
        replace(one, number=5),
    ]
    assert len({one.name, *(other.name for other in others)}) == len(others) + 1
    message = parsed(messages.KernelRequest, one.message().SerializeToString())
    assert (message.slot, message.options, list(message.shape)) == ("layers.0", '{"width": 3}', [8, 6])
