"""Regions written into the graph: the same numbers, the same gradients, and units that can be measured."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from esper.anatomy.cut import cut_program
from esper.anatomy.graph.inlining import inline_regions
from esper.anatomy.proof import Inputs
from esper.anatomy.units import inspect


class Regions(nn.Module):
    """A layer without autocast, and one without gradients beside a constant."""

    def __init__(self, precise: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 12), nn.Linear(12, 8)
        self.fixed, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.precise = precise

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        with torch.autocast("cpu", enabled=not self.precise):
            x = torch.relu(self.second(x)).float()
        with torch.no_grad():
            y = torch.relu(self.fixed(x) * torch.tensor(2.0))
        out: Tensor = self.last(x + y)
        return out


def exported(model: nn.Module) -> ExportedProgram:
    return torch.export.export(model, (torch.randn(4, 5),), strict=False)


def called(program: ExportedProgram) -> set[str]:
    return {getattr(node.target, "__name__", "") for node in program.graph_module.graph.nodes}


def test_numbers_and_gradients_stay_what_they_were() -> None:
    torch.manual_seed(0)
    model = Regions()
    program = exported(model)
    assert "wrap_with_autocast" in called(program)
    inline_regions(program)
    assert not [name for name in called(program) if name.startswith("wrap_with")]
    flat, x = program.module(), torch.randn(4, 5)
    given, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, wanted = flat(given), model(expected)
    assert torch.equal(out, wanted)
    out.square().sum().backward()
    wanted.square().sum().backward()
    assert given.grad is not None
    assert expected.grad is not None
    assert torch.equal(given.grad, expected.grad)
    assert flat.get_parameter("fixed.weight").grad is None
    own, wanted_grad = flat.get_parameter("second.weight").grad, model.second.weight.grad
    assert own is not None
    assert wanted_grad is not None
    assert torch.equal(own, wanted_grad)


def test_units_that_are_read_in_such_a_region_can_go() -> None:
    model = Regions()
    anatomy = inspect(model, torch.randn(4, 5))
    assert [frozen.name for frozen in anatomy.frozen] == ["last"]
    keep = torch.ones(anatomy.num_units, dtype=torch.bool).numpy()
    keep[::3] = False
    before = copy.deepcopy(model.state_dict())
    cut = cut_program(model, anatomy, keep, Inputs((torch.randn(4, 5),)))
    assert cut.equivalence.float64_error is not None
    assert cut.equivalence.float64_error < 1e-12
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_region_of_lower_precision_stays_apart() -> None:
    program = exported(Regions(precise=False))
    inline_regions(program)
    assert "wrap_with_autocast" in called(program)
    frozen = {axis.name: axis.reason for axis in inspect(Regions(precise=False), torch.randn(4, 5)).frozen}
    assert "wrap_with_autocast" in frozen["first"]


class Counting(nn.Module):
    """Overwrites a tensor where no gradient is recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        with torch.no_grad():
            y.mul_(2.0)
        return y


def test_what_overwrites_without_gradients_stays_apart() -> None:
    program = exported(Counting())
    inline_regions(program)
    assert "wrap_with_set_grad_enabled" in called(program)
