"""Blocks of a network: what they do to their input, and the exact cost of skipping them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.elesh.blocks import measure_blocks
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


def test_blocks_are_modules_with_a_number_one_input_and_one_output() -> None:
    made = stack()
    found = {block.name: block for block in measure_blocks(made.twin, made.state, [made.batch])}
    assert list(found) == ["blocks.0", "blocks.1", "blocks.2", "widen.0"]
    assert [found[name].is_compatible for name in found] == [True, True, True, False]
    assert np.isnan(found["widen.0"].similarity)
    assert np.isnan(found["widen.0"].skip_losses).all()


def test_the_cost_of_skipping_is_that_of_the_network_without_the_block() -> None:
    made = stack()
    model = made.model
    assert isinstance(model, Stack)
    x, y = made.batch
    whole = F.cross_entropy(model(x), y).item()
    for number, block in enumerate(measure_blocks(made.twin, made.state, [made.batch])[:3]):
        kept, model.blocks[number] = model.blocks[number], nn.Identity()
        without = F.cross_entropy(model(x), y).item()
        model.blocks[number] = kept
        assert block.skip_losses.tolist() == pytest.approx([without - whole], abs=1e-6)


def test_a_block_that_does_nothing_looks_like_its_input_and_costs_nothing() -> None:
    made = stack()
    first, idle, last, _ = measure_blocks(made.twin, made.state, [made.batch])
    assert idle.similarity > 0.9999
    assert first.similarity < 0.99
    assert idle.gradient_flow == pytest.approx(1.0, abs=0.01)
    assert abs(float(idle.skip_losses[0])) < 0.01 * max(
        abs(float(first.skip_losses[0])), abs(float(last.skip_losses[0]))
    )
    assert idle.taylor < 0.01 * first.taylor


def test_input_and_output_are_compared_sample_by_sample() -> None:
    made = stack()
    model = made.model
    assert isinstance(model, Stack)
    with torch.no_grad():
        before = model.stem(made.batch[0])
        after = model.blocks[0](before)
    expected = float(F.cosine_similarity(before, after).mean())
    assert measure_blocks(made.twin, made.state, [made.batch])[0].similarity == pytest.approx(
        expected, abs=1e-5
    )


def test_without_skipping_there_is_no_second_pass() -> None:
    made = stack()
    found = measure_blocks(made.twin, made.state, [made.batch, made.batch], skip=False)
    assert all(np.isnan(block.skip_losses).all() and block.skip_losses.size == 2 for block in found)
    assert found[0].taylor > 0


@pytest.mark.parametrize(("name", "blocks"), [("gpt", ["blocks.0", "blocks.1"]), ("resnet8", ["blocks.0"])])
def test_blocks_of_real_networks_can_be_skipped(name: str, blocks: list[str]) -> None:
    made = from_zoo(name)
    found = {block.name: block for block in measure_blocks(made.twin, made.state, [made.batch])}
    assert set(blocks) <= {name for name, block in found.items() if block.is_compatible}
    assert all(np.isfinite(found[name].skip_losses).all() for name in blocks)
