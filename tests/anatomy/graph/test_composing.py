"""Operators that torch composes of others, put into the graph as what they stand for."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from esper.anatomy.graph.composing import compose
from esper.anatomy.graph.lowering import operator_name

# The exporter's own: about how it looks at trees of inputs.
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")


class Beside(nn.Module):
    """Two tensors that are brought to one shape, which the second of them has already, and is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        narrow, wide = torch.broadcast_tensors(self.first(x), self.first(x) + x)
        return narrow, wide


def _exported(model: nn.Module, *shape: int) -> ExportedProgram:
    x = torch.randn(*shape)
    return torch.export.export(model.eval(), (x,), dynamic_shapes=({0: Dim.AUTO},), strict=False)


def _names(program: ExportedProgram) -> set[str]:
    return {operator_name(node.target) for node in program.graph.nodes if node.op == "call_function"}


def test_an_output_that_is_a_tensor_of_before_can_be_saved() -> None:
    model = Beside()
    program = _exported(model, 2, 3)
    compose(program)
    assert "broadcast_tensors" not in _names(program)
    torch.export.save(program, io.BytesIO())  # checks that the signature names the outputs that there are
    x = torch.randn(4, 3)
    torch.testing.assert_close(program.module()(x), model(x))


def test_what_has_a_rule_stays_one_operator() -> None:
    program = _exported(nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4)), 2, 3)
    before = [node.target for node in program.graph.nodes]
    compose(program)
    assert [node.target for node in program.graph.nodes] == before
