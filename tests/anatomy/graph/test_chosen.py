"""Rows that values choose: the tokens of an expert are counted, and its hidden units can go."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.anatomy.cut.layers import residual_blocks
from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin


class Experts(nn.Module):
    """Every token goes to two of four experts, each of which sees its own tokens only."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        weights, numbers = self.router(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            token, place = torch.where(numbers == number)
            out = out.index_add(0, token, expert(x[token]) * weights[token, place, None])
        return x + out


def _network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(0, 1), nn.Linear(6, 8), nn.ReLU(), Experts(), nn.Linear(8, 3))


def _loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target.flatten())


def _batch(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 6, 6), torch.randint(3, (size, 6))


def test_an_expert_counts_with_the_tokens_that_it_gets_on_average_and_its_units_can_go() -> None:
    counts = [trace(_network(seed), _batch(64), _loss).counts for seed in (0, 1)]
    # A trace is of two samples, 12 tokens: two of four experts for each of them, whatever the router says.
    assert [list(each.values()) for each in counts] == [[6] * 4, [6] * 4]
    groups = {group.name for group in esper.inspect(_network(), _batch(64)[0]).groups}
    assert {f"3.experts.{number}.0" for number in range(4)} <= groups
    (block,) = residual_blocks(_network(), _batch(64)[0])
    assert block.flops == 4 * 3 * 2 * (8 * 16 + 16 * 8)


def test_a_stored_twin_finds_its_nodes_again_and_takes_batches_in_which_an_expert_has_nothing_to_do() -> None:
    model = _network().eval()
    twin = Twin.from_bytes(Twin.of(trace(model, _batch(64), _loss)).to_bytes())
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    state["3.router.weight"][0] = -100  # in the memory of the network: its first expert gets nothing
    batch = _batch(5)
    torch.testing.assert_close(twin.run(state, batch)[0], _loss(model(batch[0]), batch[1]))
