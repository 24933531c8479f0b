"""Operators that are written out before labels run, and programs that are left as they are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from esper.anatomy.graph.lowering import lowered, operator_name

# The exporter's own: about how it looks at trees of inputs, and at the weights of recurrent cells.
pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning", "ignore:.*_flat_weights")


class ReadsDifferences(nn.Module):
    """An operator without a rule, on what no parameter has touched."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.diff(x, dim=-1))
        return out


class Counts(nn.Module):
    """Writes into a part of a buffer."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("seen", torch.zeros(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        self.seen[:, 0] = y[0].detach()
        out: Tensor = self.last(y)
        return out


class Halves(nn.Module):
    """Writes into a part of a tensor of its own, all of it at last."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[:, :2] = x[:, :2]
        y[:] = y + x
        return y


class Fills(nn.Module):
    """Fills a tensor step by step, as decoders do, and gives that."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(x.shape[0], x.shape[1], 3, dtype=torch.float64)
        for step in range(1, x.shape[1]):
            out[:, step] = self.layer(x[:, step])
        return out


def _program(model: nn.Module, *shape: int) -> ExportedProgram:
    return torch.export.export(model.eval(), (torch.randn(*shape),), strict=False)


def _names(program: ExportedProgram) -> set[str]:
    return {operator_name(node.target) for node in program.graph.nodes if node.op == "call_function"}


def test_what_no_parameter_reaches_is_left_as_it_is() -> None:
    program = _program(ReadsDifferences(), 2, 5)
    assert "diff" in _names(program)
    assert lowered(program) is program


def test_a_program_that_writes_into_its_buffers_is_left_as_it_is() -> None:
    program = _program(Counts(), 2, 4)
    assert lowered(program) is program


def test_what_is_filled_step_by_step_is_an_output_with_derivatives() -> None:
    torch.manual_seed(0)
    model, x = Fills(), torch.randn(2, 4, 4, requires_grad=True)
    program = lowered(_program(model, 2, 4, 4))
    program.validate()
    module = program.module()
    torch.testing.assert_close(module(x), model(x))
    (mine,), (own,) = (torch.autograd.grad(one(x).square().sum(), x) for one in (module, model))
    torch.testing.assert_close(mine, own)


def test_written_parts_become_pieces_and_nothing_depends_on_strides() -> None:
    program, x = _program(Halves(), 3, 4), torch.randn(3, 4)
    written_out = lowered(program)
    assert "view" not in _names(written_out)
    assert "copy" in _names(program)
    assert "slice_scatter" in _names(written_out)
    assert torch.equal(written_out.module()(x), Halves()(x))


class FillsSpectrum(nn.Module):
    """Writes into parts of a complex tensor along its last axis, and into one place."""

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.zeros(len(x), 5, dtype=torch.cfloat)
        spectrum[:, 1:4] = torch.fft.rfft(x)[:, 1:4]
        spectrum[:, 0] = torch.fft.rfft(x * x)[:, 0]
        spectrum[:1] = spectrum[:1] * 2
        out: Tensor = torch.fft.irfft(spectrum)
        return out


def test_what_is_written_into_complex_numbers_has_derivatives() -> None:
    torch.manual_seed(0)
    model, x = FillsSpectrum(), torch.randn(3, 8, requires_grad=True)
    program = lowered(_program(model, 3, 8))
    program.validate()
    module = program.module()
    torch.testing.assert_close(module(x), model(x))
    (mine,), (own,) = (torch.autograd.grad(one(x).square().sum(), x) for one in (module, model))
    torch.testing.assert_close(mine, own)
