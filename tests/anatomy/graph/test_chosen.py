"""Rows that values choose: the tokens of an expert are counted, and its hidden units can go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.anatomy.cut.layers import residual_blocks
from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.errors import UntraceableError


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


class OneByOne(nn.Module):
    """Its graph is for one number of samples: the code goes through them."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = _network()[1:]

    def forward(self, x: Tensor) -> Tensor:
        moved = torch.cat([x[number] + number % 2 for number in range(x.shape[0])])
        return self.rest(moved + torch.zeros(x.shape[0] * 6, 6))  # type: ignore[no-any-return]


def test_of_a_fixed_number_of_samples_as_many_are_counted_as_the_graph_takes() -> None:
    traced = trace(OneByOne(), _batch(8), _loss)
    assert (traced.batch, traced.is_batch_dynamic) == (2, False)
    assert list(traced.counts.values()) == [6] * 4


class OnNodes(nn.Module):
    """Nodes and edges, of which there is another number."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = _network()[1:]

    def forward(self, nodes: Tensor, ends: Tensor) -> Tensor:
        return self.rest(nodes.index_add(0, ends[:, 0], nodes[ends[:, 1]]))  # type: ignore[no-any-return]


def test_where_inputs_share_no_axis_of_samples_all_that_was_traced_is_counted() -> None:
    ends, classes = torch.randint(12, (36, 2)), torch.randint(3, (12,))
    traced = trace(OnNodes(), (torch.randn(12, 6), ends, classes), _loss)
    assert list(traced.counts.values()) == [6] * 4  # and not a third of it


def test_a_sample_that_the_network_fails_on_behind_what_was_traced_is_refused_as_any_other() -> None:
    model = nn.Sequential(nn.Embedding(9, 6), _network())
    numbers = torch.zeros(4, 6, dtype=torch.int64)
    numbers[3, 3] = 9
    with pytest.raises(UntraceableError, match=r"forward fails on the sample.* index out of range"):
        trace(model, (numbers, torch.zeros(4, 6, dtype=torch.int64)), _loss)
