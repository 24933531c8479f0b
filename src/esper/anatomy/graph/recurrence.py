"""Recurrent layers and cells stay one operator in a graph, however many steps a layer runs for.

Torch's own operators for them are composed of the operators of each step, and the exporter computes shapes
by going through all of those: seconds for a hundred steps, and the number of steps is fixed. So operators
without content stand in for them while it looks, and torch's take their place in the graph that comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.nn.modules import rnn
from torch.nn.utils import rnn as packing

from esper.anatomy.graph.recurrent_operators import OF_TORCH, STAND_INS, Functions, open_int, sorting
from esper.anatomy.graph.stand_ins import set_in


def exported(module: nn.Module, *given: Any, **options: Any) -> ExportedProgram:
    """`torch.export.export`, with a recurrent layer as one operator of torch's, for any number of steps."""
    with recurrent_as_one(module):
        program = torch.export.export(module, *given, **options, strict=False)
    _exchange(program.graph_module, STAND_INS)
    return program


def decomposed(program: ExportedProgram, table: dict[Any, Any]) -> ExportedProgram:
    """The program with the operators of the table written out; recurrent layers stay as they are."""
    with recurrent_as_one(program.graph_module):
        written_out: ExportedProgram = program.run_decompositions(table)
    _exchange(written_out.graph_module, STAND_INS)
    return written_out


@contextmanager
def recurrent_as_one(module: nn.Module) -> Iterator[None]:
    """Stand-ins take the place of torch's recurrent operators for a block, in the graphs of `module`, too."""
    with ExitStack() as changes:
        for table in (vars(rnn), vars(packing)):
            changes.enter_context(set_in(table, "_VF", Functions(table["_VF"])))
        changes.enter_context(set_in(vars(rnn), "int", open_int))
        init = vars(packing)["_packed_sequence_init"]
        changes.enter_context(set_in(vars(packing), "_packed_sequence_init", sorting(init)))
        _exchange(module, OF_TORCH)
        changes.callback(_exchange, module, STAND_INS)
        yield


def _exchange(module: nn.Module, others: Mapping[Any, Any]) -> None:
    """Puts other operators into all graphs of a module."""
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            calls = [node for node in part.graph.nodes if node.op == "call_function"]
            found = [node for node in calls if node.target in others]
            for node in found:
                node.target = others[node.target]
            if found:
                part.recompile()
