"""Parameters that code takes from a list or an object are those of the modules that own them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.cut import cut
from esper.anatomy.graph import named_tensors, trace
from esper.anatomy.proof import Inputs
from esper.anatomy.twin import Twin
from esper.anatomy.units import inspect


class Held(nn.Module):
    """Two linear layers whose weights are held elsewhere, too; as is a buffer behind them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 4)
        self.register_buffer("scale", torch.rand(4))
        self.weights = [self.first.weight]
        self.held = SimpleNamespace(weight=self.last.weight, scale=self.scale)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x @ self.weights[0].t() + self.first.bias)
        y: Tensor = F.linear(x, self.held.weight, self.last.bias) * self.held.scale
        return y


def test_what_modules_own_is_an_input_and_all_else_stays_a_constant() -> None:
    traced = trace(Held(), torch.randn(3, 8))
    used = {node.name for node in traced.program.graph.nodes if node.op == "placeholder" and node.users}
    assert {traced.names[name] for name in used & traced.names.keys()} == {
        *("first.weight", "first.bias", "last.weight", "last.bias", "<lifted_tensor_2>")
    }
    assert [tuple(constant.shape) for constant in traced.program.constants.values()] == [(4,)]


def test_the_twin_computes_with_the_weights_that_it_is_given() -> None:
    model, batch = Held(), (torch.randn(5, 8), torch.arange(5) % 4)
    twin = Twin.from_bytes(Twin.of(trace(model, batch, F.cross_entropy)).to_bytes())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    state = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    expected = F.cross_entropy(model(batch[0]), batch[1])
    assert float(twin.loss(state, batch)[0]) == float(expected.detach())


def test_units_go_and_what_is_held_goes_with_them() -> None:
    model, x = Held(), torch.randn(3, 8)
    anatomy = inspect(model, x)
    cut(model, anatomy, np.arange(anatomy.num_units) >= 5, Inputs((x,)))
    assert model.weights[0].shape == (7, 8)
    assert model.held.weight.shape == (4, 7)
