"""Blocks of a network: what they do to their input, and the exact cost of skipping them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.cut import residual_blocks
from esper.anatomy.proof import Inputs
from esper.elesh.blocks import BlockMeasures, measure_blocks
from tests.anatomy.cutting import without
from tests.elesh.twins import Subject, from_zoo, subject


class Residual(nn.Module):
    def __init__(self, width: int, size: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 16), nn.Linear(16, width)
        with torch.no_grad():
            self.down.weight.mul_(size)
            self.down.bias.mul_(size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(F.relu(self.up(x)))
        return out


class Stack(nn.Module):
    """Three residual blocks, the second of which does almost nothing, between two linear maps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(8, 12)
        self.blocks = nn.ModuleList([Residual(12, 3.0), Residual(12, 1e-3), Residual(12, 3.0)])
        self.widen = nn.Sequential(nn.Linear(12, 20), nn.ReLU())
        self.out = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.out(self.widen(x))
        return logits


def stack() -> Subject:
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    return subject(Stack(), (x, torch.arange(6) % 5))


def measured(made: Subject, **more: bool) -> list[BlockMeasures]:
    return measure_blocks(made.twin, made.anatomy, made.state, [made.batch, made.batch], **more)


def test_what_is_measured_are_the_blocks_that_can_be_removed() -> None:
    made = stack()
    found = [one.block for one in measured(made, skip=False)]
    assert [block.name for block in found] == ["blocks.0", "blocks.1", "blocks.2"]
    removable = residual_blocks(made.model, made.batch, F.cross_entropy)
    assert [(b.name, b.parameters, b.flops) for b in found] == [
        (b.name, b.parameters, b.flops) for b in removable
    ]


def test_the_cost_of_skipping_is_that_of_the_network_without_the_block() -> None:
    made = stack()
    model = made.model
    assert isinstance(model, Stack)
    x, y = made.batch
    whole = F.cross_entropy(model(x), y).item()
    for number, block in enumerate(measured(made)):
        kept, model.blocks[number] = model.blocks[number], nn.Identity()
        without = F.cross_entropy(model(x), y).item()
        model.blocks[number] = kept
        assert block.rises.tolist() == pytest.approx([without - whole] * 2, abs=1e-6)


def test_a_block_that_does_nothing_looks_like_its_input_and_costs_nothing() -> None:
    made = stack()
    first, idle, last = measured(made)
    assert idle.similarity > 0.9999
    assert first.similarity < 0.99
    assert idle.gradient_flow == pytest.approx(1.0, abs=0.01)
    assert abs(float(idle.rises[0])) < 0.01 * max(abs(float(one.rises[0])) for one in (first, last))
    assert idle.taylor < 0.01 * first.taylor
    assert idle.skip_potential > 0.99 > first.skip_potential > 0
    flow = first.gradient_flow
    assert first.skip_potential == pytest.approx(first.similarity * min(flow, 1 / flow))
    assert first.is_same_size


class Shifting(nn.Module):
    """Adds one number per sample to all that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shift, self.out = nn.Linear(8, 8), nn.Linear(8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        logits: Tensor = self.out(x + self.shift(x))
        return logits


def test_a_block_that_is_stretched_to_its_stream_says_so() -> None:
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    (one,) = measured(subject(Shifting(), (x, torch.arange(6) % 5)))
    assert not one.is_same_size
    assert 0 <= one.skip_potential <= 1


def test_input_and_output_are_compared_sample_by_sample() -> None:
    made = stack()
    model = made.model
    assert isinstance(model, Stack)
    with torch.no_grad():
        before = model.stem(made.batch[0])
        after = model.blocks[0](before)
    expected = float(F.cosine_similarity(before, after).mean())
    assert measured(made)[0].similarity == pytest.approx(expected, abs=1e-5)


def test_gradient_flow_and_first_order_change_are_those_of_autograd() -> None:
    made = stack()
    model, (x, y) = made.model, made.batch
    assert isinstance(model, Stack)
    before = model.stem(x).detach().requires_grad_()
    after = model.blocks[0](before)
    rest = nn.Sequential(*model.blocks[1:], model.widen, model.out)
    into, made_by = torch.autograd.grad(F.cross_entropy(rest(after), y), [before, after])
    found = measured(made, skip=False)[0]
    assert found.gradient_flow == pytest.approx(float(into.norm() / made_by.norm()), abs=1e-5)
    expected = ((after - before).detach() * made_by).sum(1).abs().sum()
    assert found.taylor == pytest.approx(float(expected), abs=1e-6)


def test_without_skipping_there_is_no_second_pass() -> None:
    found = measured(stack(), skip=False)
    assert all(np.isnan(one.rises).all() and one.rises.size == 2 for one in found)
    assert found[0].taylor > 0


class WritesInPlace(nn.Module):
    """A block that begins by writing into its stream, and a sum that is written into what it adds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first, self.second, self.out = (nn.Linear(8, 8) for _ in range(4))
        self.active = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(self.active(x))
        changed = self.second(x)
        changed += x
        logits: Tensor = self.out(changed)
        return logits


def test_what_is_written_in_place_costs_what_the_removed_block_costs() -> None:
    x, y = torch.randn(6, 8, generator=torch.Generator().manual_seed(1)), torch.arange(6)
    made = subject(WritesInPlace(), (x, y))
    with torch.no_grad():
        whole = F.cross_entropy(made.model(x), y)
    for one in measured(made):
        less = copy.deepcopy(made.model)
        without(less, [one.block.name], Inputs((x,), {}))
        with torch.no_grad():
            expected = float(F.cross_entropy(less(x), y) - whole)
        assert one.rises.tolist() == pytest.approx([expected] * 2, abs=1e-6)
    assert [one.block.name for one in measured(made)] == ["first", "second"]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("gpt", ["blocks.0.attention", "blocks.0.mlp", "blocks.1.attention", "blocks.1.mlp"]),
     ("resnet8", ["blocks.0"])],
)  # fmt: skip
def test_blocks_of_real_networks_are_measured(name: str, blocks: list[str]) -> None:
    found = measured(from_zoo(name))
    assert [one.block.name for one in found] == blocks
    for one in found:
        assert np.isfinite([*one.rises, one.similarity, one.gradient_flow, one.taylor]).all()
