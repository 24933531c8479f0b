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

from esper.anatomy.graph.held import name_held
from esper.anatomy.graph.recurrent_operators import (
    DROPOUT_AT,
    OF_TORCH,
    PAD,
    STAND_INS,
    Functions,
    sorting,
    unchecked,
)
from esper.anatomy.graph.stand_ins import set_in, set_of


def exported(module: nn.Module, *given: Any, **options: Any) -> ExportedProgram:
    """`torch.export.export`, with a recurrent layer as one operator of torch's, for any number of steps.

    What the module owns is an input of the program, from wherever its code takes it.
    """
    with recurrent_as_one(module):
        program = torch.export.export(module, *given, **options, strict=False)
    name_held(program, module)
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
        for layer in (rnn.RNNBase, rnn.LSTM):
            changes.enter_context(set_of(layer, "check_forward_args", unchecked(layer.check_forward_args)))
        init = vars(packing)["_packed_sequence_init"]
        changes.enter_context(set_in(vars(packing), "_packed_sequence_init", sorting(init)))
        _exchange(module, OF_TORCH)
        changes.callback(_exchange, module, STAND_INS)
        yield


def _as_in_training(node: fx.Node) -> None:
    """A layer without dropout computes in training what it always does; on a GPU it has slopes only then."""
    place = DROPOUT_AT.get(node.target)
    if place is not None:
        node.args = (*node.args[:place], 0.0, True, *node.args[place + 2 :])


def _as_long_as_asked(node: fx.Node) -> None:
    """What is padded again is as long as the longest sample; or as what was packed, if code needs that."""
    if node.target is not PAD or node.args[4] != 0:
        return
    sizes: Any = node.args[1]  # the second result of what packed it
    pack: fx.Node = sizes.args[0]
    packed: Any = pack.args[0]
    axis, own_axis = (1 if call.args[2] else 0 for call in (pack, node))
    if _is_one(packed.meta["val"].shape[axis], node.meta["val"][0].shape[own_axis]):
        with node.graph.inserting_before(node):
            steps = node.graph.call_function(torch.ops.aten.sym_size.int, (packed, axis))
        steps.meta["val"] = packed.meta["val"].shape[axis]
        node.args = (*node.args[:4], steps)


def _is_one(size: Any, other: Any) -> bool:
    """Whether two sizes stand for the same number; to compare them as numbers would make them that."""
    mine, theirs = (one.node.expr if isinstance(one, torch.SymInt) else one for one in (size, other))
    return bool(mine == theirs)


def _exchange(module: nn.Module, others: Mapping[Any, Any]) -> None:
    """Puts other operators into all graphs of a module."""
    for part in module.modules():
        if isinstance(part, fx.GraphModule):
            calls = [node for node in part.graph.nodes if node.op == "call_function"]
            found = [node for node in calls if node.target in others]
            for node in found:
                node.target = others[node.target]
                _as_in_training(node)
                _as_long_as_asked(node)
            if found:
                part.recompile()
