"""Recurrent layers and cells stay one operator in a graph, however many steps a layer runs for.

Torch's own operators for them are composed of the operators of each step, and the exporter computes shapes
by going through all of those: seconds for a hundred steps, and the number of steps is fixed. So operators
without content stand in for them while it looks, and torch's take their place in the graph that comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.modules import rnn

_LAYER = (
    "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, "
    "bool batch_first"
)
_CELL = "Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh"
_PLAIN = ("gru", "rnn_tanh", "rnn_relu")
_HAS_BIASES = 3
"""Where that stands among the arguments of a layer, if its steps are of equal length."""


def _lstm(x: Tensor, hx: list[Tensor], *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _made(x, hx[0], *given), torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _other(x: Tensor, hx: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    return _made(x, hx, *given), torch.empty_like(hx)


def _made(x: Tensor, hx: Tensor, *given: Any) -> Tensor:
    """What goes out, without content: as many steps and samples as came in."""
    bidirectional = given[5]
    return x.new_empty(*x.shape[:-1], hx.shape[-1] * (2 if bidirectional else 1))


def _lstm_cell(x: Tensor, hx: list[Tensor], *_: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG001 (torch's order)
    return torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _other_cell(x: Tensor, hx: Tensor, *_: Any) -> Tensor:  # noqa: ARG001 (torch's order)
    return torch.empty_like(hx)


_LIBRARY = torch.library.Library("esper", "FRAGMENT")


def _stand_in(name: str, signature: str, shapes: Callable[..., Any]) -> Any:
    """An operator without content, of which the exporter only learns the shapes."""
    _LIBRARY.define(f"{name}{signature}")
    torch.library.register_fake(f"esper::{name}", shapes, lib=_LIBRARY)
    return getattr(torch.ops.esper, name).default


_OF_TORCH: dict[Any, Any] = {
    torch.ops.aten.lstm.input: _stand_in(
        "lstm", f"(Tensor input, Tensor[] hx, {_LAYER}) -> (Tensor, Tensor, Tensor)", _lstm
    ),
    torch.ops.aten.lstm_cell.default: _stand_in(
        "lstm_cell", f"(Tensor input, Tensor[] hx, {_CELL}) -> (Tensor, Tensor)", _lstm_cell
    ),
}
for _name in _PLAIN:
    _OF_TORCH[getattr(torch.ops.aten, _name).input] = _stand_in(
        _name, f"(Tensor input, Tensor hx, {_LAYER}) -> (Tensor, Tensor)", _other
    )
    _OF_TORCH[getattr(torch.ops.aten, f"{_name}_cell").default] = _stand_in(
        f"{_name}_cell", f"(Tensor input, Tensor hx, {_CELL}) -> Tensor", _other_cell
    )
_STAND_INS = {ours: theirs for theirs, ours in _OF_TORCH.items()}


class _Functions:
    """Torch's functions on recurrent weights, with stand-ins for all but packed sequences."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        theirs = getattr(self._functions, name)
        is_layer = name in ("lstm", *_PLAIN)
        if not is_layer and name.removesuffix("_cell") not in ("lstm", *_PLAIN):
            return theirs

        def stand_in(*args: Any) -> Any:
            # Packed sequences also say how many samples each step has, so that all else stands further back.
            is_packed = is_layer and not isinstance(args[_HAS_BIASES], bool)
            return theirs(*args) if is_packed else getattr(torch.ops.esper, name)(*args)

        return stand_in


def exported(module: nn.Module, *given: Any, **options: Any) -> ExportedProgram:
    """`torch.export.export`, with a recurrent layer as one operator of torch's, for any number of steps."""
    with recurrent_as_one(module):
        program = torch.export.export(module, *given, **options, strict=False)
    _exchange(program.graph_module, _STAND_INS)
    return program


def decomposed(program: ExportedProgram, table: dict[Any, Any]) -> ExportedProgram:
    """The program with the operators of the table written out; recurrent layers stay as they are."""
    with recurrent_as_one(program.graph_module):
        written_out: ExportedProgram = program.run_decompositions(table)
    _exchange(written_out.graph_module, _STAND_INS)
    return written_out


@contextmanager
def recurrent_as_one(module: nn.Module) -> Iterator[None]:
    """Stand-ins take the place of torch's recurrent operators for a block, in the graphs of `module`, too."""
    functions = vars(rnn)["_VF"]
    vars(rnn)["_VF"] = _Functions(functions)
    try:
        _exchange(module, _OF_TORCH)
        yield
    finally:
        vars(rnn)["_VF"] = functions
        _exchange(module, _STAND_INS)


def _exchange(module: nn.Module, others: dict[Any, Any]) -> None:
    """Puts other operators into all graphs of a module."""
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            calls = [node for node in part.graph.nodes if node.op == "call_function"]
            found = [node for node in calls if node.target in others]
            for node in found:
                node.target = others[node.target]
            if found:
                part.recompile()
