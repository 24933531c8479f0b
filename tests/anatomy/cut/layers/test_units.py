"""Residual blocks become units where zeros in their weights stand for their absence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.cut.layers.units import PREFIX, block_names, with_layers
from esper.anatomy.graph import named_tensors, trace
from esper.anatomy.structure import Anatomy, Kind
from esper.anatomy.twin import Ablation, Twin
from esper.anatomy.units import anatomy_of, masked_axes, zero_masked
from esper.leyline import decode, encode


class Residual(nn.Module):
    """x + f(x) three times: a bottleneck, one that shares its weights with the next, and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)
        self.twice = nn.Linear(6, 6)
        self.gate = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        x = x + self.twice(x)
        x = x + self.twice(x).tanh()
        x = x + x.mul(torch.sigmoid(self.gate(x)))
        logits: Tensor = self.head(x)
        return logits


class Nested(nn.Module):
    """A block in a block, as in a network of the shape of a U."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.inner, self.out = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.into(x))
        y = y + torch.tanh(self.inner(y))
        made: Tensor = x + self.out(y)
        return made


class Untold(nn.Module):
    """Blocks that happen to add nothing while a scalar or a running mean is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.zeros(()))
        self.norm = nn.BatchNorm1d(6, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * torch.sigmoid(self.first(x))
        x = x + self.norm(self.second(x))
        made: Tensor = x + self.scale * self.third(x)
        return made


class Left(nn.Module):
    """What remains of a layer whose module has gone: a scale of nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.other = nn.Parameter(torch.ones(6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale * torch.zeros_like(x)
        made: Tensor = x + self.other(x)
        return made


class Closed(nn.Module):
    """Of two nested blocks only the outer one falls silent, and the inner one comes last in it."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(6, 4), nn.Linear(4, 6)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x)
        made: Tensor = x + self.out(y + self.inner(y))
        return made


def batch(count: int = 5) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, 6, generator=random), torch.randint(0, 3, (count,), generator=random)


def looked_at(model: nn.Module) -> tuple[Anatomy, Anatomy, Twin, dict[str, Tensor]]:
    """Without layers, with layers, the twin, and the tensors."""
    traced = trace(model, batch(), F.cross_entropy)
    state = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    plain = anatomy_of(traced, model)
    return plain, with_layers(plain, traced, state, batch()), Twin.of(traced), state


def layers(anatomy: Anatomy) -> list[str]:
    return [group.name.removeprefix(PREFIX) for group in anatomy.groups if group.kind is Kind.LAYER]


def without(anatomy: Anatomy, name: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[anatomy.unit_slice(anatomy.group_named(name))] = False
    return keep


def test_only_blocks_that_zeros_silence_are_units() -> None:
    _, anatomy, _, _ = looked_at(Residual())
    assert layers(anatomy) == ["down"]


@pytest.mark.parametrize(("build", "expected"), [(Untold, ["third"]), (Left, ["other"]), (Closed, ["out"])])
def test_what_weights_happen_to_be_makes_no_difference(build: type[nn.Module], expected: list[str]) -> None:
    torch.manual_seed(0)
    model = build()
    _, anatomy, _, _ = looked_at(model)
    assert layers(anatomy) == expected
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    assert looked_at(model)[1].digest == anatomy.digest


def test_units_that_were_there_keep_their_numbers_and_their_cost() -> None:
    plain, anatomy, _, _ = looked_at(Residual())
    assert anatomy.groups[: len(plain.groups)] == plain.groups
    assert (anatomy.flops(), anatomy.parameters()) == (plain.flops(), plain.parameters())


def test_without_a_layer_its_work_and_its_parameters_are_gone() -> None:
    plain, anatomy, _, _ = looked_at(Residual())
    keep = without(anatomy, "layer:down")
    assert plain.flops() - anatomy.flops(keep) == 2 * (6 * 10 + 10 * 6)
    assert plain.parameters() - anatomy.parameters(keep) == 2 * 6 + (6 * 10 + 10) + (10 * 6 + 6)


def test_units_inside_of_a_layer_are_gone_with_it() -> None:
    _, anatomy, _, _ = looked_at(Residual())
    inside = anatomy.inside_removed(without(anatomy, "layer:down"))
    assert inside[anatomy.unit_slice(anatomy.group_named("up"))].all()
    assert inside.sum() == 10 + 1
    assert not anatomy.inside_removed(np.ones(anatomy.num_units, np.bool_)).any()


def test_a_gate_on_a_layer_does_what_its_mask_does() -> None:
    _, anatomy, twin, state = looked_at(Residual())
    unit = anatomy.num_units - 1
    gated = Ablation(twin, anatomy, np.array([unit])).losses(state, batch())[1]
    masked = {name: value.clone() for name, value in state.items()}
    zero_masked(masked, masked_axes(anatomy, without(anatomy, "layer:down")))
    assert gated.item() == pytest.approx(twin.loss(masked, batch())[0].item(), rel=1e-6)


def test_a_block_in_a_block_is_a_unit_of_its_own() -> None:
    _, anatomy, _, _ = looked_at(Nested())
    assert layers(anatomy) == ["inner", "out"]
    outer = anatomy.inside_removed(without(anatomy, "layer:out"))
    assert outer[anatomy.unit_slice(anatomy.group_named("layer:inner"))].all()
    assert not anatomy.inside_removed(without(anatomy, "layer:inner"))[-1]


def test_a_layer_is_called_in_a_removal_what_its_group_is_called() -> None:
    _, anatomy, _, _ = looked_at(Nested())
    assert block_names(anatomy, np.flatnonzero(anatomy.is_layer)) == ("inner", "out")


def test_layers_survive_json() -> None:
    _, anatomy, _, _ = looked_at(Nested())
    again = decode(Anatomy, json.loads(json.dumps(encode(anatomy))))
    assert again.digest == anatomy.digest
    assert (again.is_layer == anatomy.is_layer).all()
