"""Layers in the order of the graph, whatever the order in which they were registered."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.anatomy.graph import trace
from esper.anatomy.units import anatomy_of
from esper.report import MapLayer
from esper.runs.network.layers import layers_of
from tests.anatomy.networks import ZOO


def layers(network: nn.Module, sample: object) -> tuple[MapLayer, ...]:
    traced = trace(network, sample)
    return layers_of(traced, anatomy_of(traced, network))


class Backwards(nn.Module):
    """Registered last to first."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(8, 3)
        self.first = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.relu(self.first(x)))
        return scores


def test_layers_come_in_the_order_of_the_computation() -> None:
    first, last = layers(Backwards(), torch.randn(2, 4))
    assert (first.name, first.operator, first.inputs, first.outputs) == ("first", "linear", 4, 8)
    assert (last.name, last.reads) == ("last", first.makes)


def test_a_frozen_layer_names_the_reason() -> None:
    _, last = layers(Backwards(), torch.randn(2, 4))
    assert [(part.count, part.group, part.reason) for part in last.parts] == [
        (3, -1, "reaches an output of the network")
    ]


def test_every_producer_of_a_frozen_stream_names_the_operator() -> None:
    found = layers(ZOO["gpt"].network(), ZOO["gpt"].input())
    frozen = [part.reason for layer in found for part in layer.parts if part.group < 0]
    assert len(frozen) >= 5
    assert sum("statistic-coupled: layer_norm" in reason for reason in frozen) >= 4


def test_a_residual_stage_is_one_group_over_several_layers() -> None:
    found = layers(ZOO["resnet8"].network(), ZOO["resnet8"].input())
    made = [group for layer in found for group in layer.makes]
    assert max(made.count(group) for group in made) >= 2
    assert all(sum(part.count for part in layer.parts) == layer.outputs for layer in found)


def test_a_tied_weight_occurs_at_each_of_its_uses() -> None:
    found = layers(ZOO["gpt2"].network(), ZOO["gpt2"].input())
    embedding, head = found[0], found[-1]
    assert embedding.operator == "embedding"
    assert (embedding.inputs, embedding.outputs) == (head.outputs, head.inputs)
