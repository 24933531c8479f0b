"""Unit numbers before and after a cut: tensors tell which unit is which."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from esper.anatomy.cut.layers import with_layers
from esper.anatomy.cut.live import cut
from esper.anatomy.cut.program import cut_program
from esper.anatomy.graph import named_tensors, trace
from esper.anatomy.structure import Anatomy
from esper.anatomy.units import anatomy_of as anatomy_from
from esper.anatomy.units import inspect
from esper.arrays import BoolArray
from esper.errors import SurgeryError
from tests.anatomy.cut.layers.test_removal import small
from tests.anatomy.cutting import anatomy_of, half, probe_of
from tests.anatomy.networks import ZOO

NAMES = [
    "resnet8",
    "gpt",
    "multi-query",
    "resnext",
    "reused-module",
    "mixer",
    "experts",
    "densenet",
    "lstm",
    "encoder",
]


def ids(anatomy: Anatomy, keep: BoolArray) -> list[tuple[str, int]]:
    """Units that stay, by their group and their number among those of it that stay."""
    return [
        (group.name, number)
        for n, group in enumerate(anatomy.groups)
        for number in range(int(keep[anatomy.unit_slice(n)].sum()))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_units_are_found_again_by_their_coordinates(name: str) -> None:
    model, before = ZOO[name].network(), anatomy_of(name)
    keep = half(before, seed=3)
    made = cut(model, before, keep, probe_of(ZOO[name].input()))
    after = inspect(model, ZOO[name].input())
    origin = made.origin(after)
    assert sorted(origin) == np.flatnonzero(keep).tolist()
    assert [before.kind_of[unit] for unit in origin] == after.kind_of.tolist()
    places = dict(zip(np.flatnonzero(keep).tolist(), ids(before, keep), strict=True))
    assert [places[unit] for unit in origin] == ids(after, np.ones(after.num_units, np.bool_))


def test_layers_and_units_go_by_one_mask_from_the_live_network_and_from_its_program() -> None:
    model, x, inputs = small()
    sample = (x, torch.zeros(5, dtype=torch.long))
    traced = trace(model, sample, cross_entropy)
    anatomy = with_layers(anatomy_from(traced, model), traced, named_tensors(model), sample)
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[anatomy.unit_slice(anatomy.group_named("layer:1.mlp.2"))] = False
    keep[anatomy.unit_slice(anatomy.group_named("2.mlp.0"))][:3] = False
    program = cut_program(model, anatomy, keep, inputs)
    before = sum(p.numel() for p in model.parameters())
    made = cut(model, anatomy, keep, inputs)
    assert made.blocks == program.blocks == ("1.mlp",)
    assert made.parameters_before == program.parameters_before == before
    assert made.parameters_after == program.parameters_after == sum(p.numel() for p in model.parameters())
    torch.testing.assert_close(program.program.module()(x), model(x))
    made.undo(model)
    assert sum(p.numel() for p in model.parameters()) == before
    assert anatomy_from(trace(model, sample, cross_entropy), model).parameters() == anatomy.parameters()


def test_what_was_cut_in_place_is_no_program() -> None:
    model, before = ZOO["resnet8"].network(), anatomy_of("resnet8")
    made = cut(model, before, half(before), probe_of(ZOO["resnet8"].input()))
    with pytest.raises(SurgeryError, match="cut in place"):
        made.program  # noqa: B018
