"""Residual blocks are found in the graph: what only `x + f(x)` needs, named by its module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.cut.layers.blocks import residual_blocks
from esper.anatomy.proof import Inputs
from esper.errors import UntraceableError
from tests.anatomy.cutting import program_without, without
from tests.anatomy.networks import ZOO


def names(name: str) -> list[str]:
    return [block.name for block in residual_blocks(ZOO[name].network(), ZOO[name].input())]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("resnet8", ["blocks.0"]),
        ("gpt", ["blocks.0.attention", "blocks.0.mlp", "blocks.1.attention", "blocks.1.mlp"]),
        ("encoder", ["self_attn", "linear1", "self_attn", "linear1"]),
        ("llama", ["model.layers.0.self_attn", "model.layers.0.mlp"]),
        ("plain", []),
        ("reused-module", []),
        ("densenet", []),
    ],
)
def test_blocks_are_named_by_their_modules(name: str, found: list[str]) -> None:
    assert [block if "." in expected else block.rpartition(".")[2] for block, expected in
            zip(names(name), found, strict=True)] == found  # fmt: skip


def test_a_block_says_what_it_holds_and_costs() -> None:
    attention, mlp, *_ = residual_blocks(ZOO["gpt"].network(), ZOO["gpt"].input())
    assert attention.modules == ("blocks.0.norm1", "blocks.0.attention")
    held = dict(ZOO["gpt"].network().named_parameters())
    own = {n for n in held if n.startswith(("blocks.0.norm2.", "blocks.0.mlp."))}
    assert set(mlp.tensors) == own
    assert mlp.parameters == sum(held[n].numel() for n in own)
    assert mlp.flops == 2 * 12 * sum(held[n].numel() for n in own if held[n].dim() == 2)


class Sums(nn.Module):
    """Sums of which only the last adds a block to its stream."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.a(x)
        x = x + seen  # also an output
        x = torch.add(x, self.b(x), alpha=2)  # counted twice, but leaving it out leaves x
        x = self.c(x) + self.c(x)  # no stream goes through
        return x + self.d(x), seen


def test_what_others_read_is_no_block() -> None:
    assert [block.name for block in residual_blocks(Sums(), torch.randn(3, 4))] == ["d"]


class Writes(nn.Module):
    """Its block reads what it has just written into the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return x + self.b(torch.relu_(x))  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def test_what_a_block_writes_into_its_stream_stays_there() -> None:
    torch.manual_seed(0)
    model, x = Writes(), torch.randn(3, 4)
    assert [block.name for block in residual_blocks(model, x)] == ["b"]
    made = program_without(model, ["b"], Inputs((x,)))
    assert torch.equal(made.module()(x), torch.relu(model.a(x)))
    without(model, ["b"], Inputs((x,)))
    assert torch.equal(model(x), torch.relu(model.a(x)))


class WritesIntoItsInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2) + self.a(x)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped


def test_a_network_that_writes_into_its_input_is_refused_by_the_line() -> None:
    with pytest.raises(UntraceableError, match=r"writes into its input input_0 \(.*test_blocks\.py"):
        residual_blocks(WritesIntoItsInput(), torch.randn(3, 4))
