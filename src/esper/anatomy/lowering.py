"""Operators that torch composes of others, and writes into views, written out as what they stand for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx
from torch._decomp import get_decompositions
from torch.export import ExportedProgram, default_decompositions

from esper.anatomy.rules import RULES

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_LOSSES = ("loss", "cross_entropy", "kl_div")  # what reaches them is an output, however they are written


def lowered(program: ExportedProgram, *, with_writes: bool = False) -> ExportedProgram:
    """The program with what has no rule written out, where torch knows how; else the program itself.

    `multiply` becomes `mul`, an LSTM the products and gates of every step, `x[:, :4] = y` a tensor that is
    put together from pieces; with `with_writes` so does every other operator that writes.
    """
    composed = {
        node.target
        for graph in _graphs(program.graph_module)
        for node in graph.nodes
        if schema_of(node.target) is not None and _is_unknown(operator_name(node.target))
    }
    table = _decompositions(composed)
    graphs = _graphs(program.graph_module)
    if not table and not any(_writes_into_views(graph, anywhere=with_writes) for graph in graphs):
        return program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its tree of inputs
        written_out: ExportedProgram = program.run_decompositions(table)
    for graph in _graphs(written_out.graph_module):
        _allow_copies(graph)
    return written_out


def _allow_copies(graph: fx.Graph) -> None:
    """`reshape` was written out as `view`, which holds for the strides of this trace only."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        node.target = torch.ops.aten.reshape.default


def _is_unknown(name: str) -> bool:
    return name not in RULES and not any(part in name for part in _LOSSES)


def _graphs(module: torch.nn.Module) -> Iterator[fx.Graph]:
    return (part.graph for part in module.modules() if isinstance(part, fx.GraphModule))


def _decompositions(composed: set[Any]) -> dict[Any, Any]:
    """How to write these operators out, for those of which torch knows it."""
    if not composed:
        return {}
    known = default_decompositions()
    found = {target: known[target] for target in composed if target in known}
    recurrent = [target for target in composed if operator_name(target) in _RECURRENT]
    return {**found, **get_decompositions(recurrent)} if recurrent else found


def _writes_into_views(graph: fx.Graph, *, anywhere: bool) -> bool:
    return any(
        is_in_place(node.target) and isinstance(node.args[0], fx.Node) and (anywhere or is_view(node.args[0]))
        for node in graph.nodes
        if node.op == "call_function" and node.args
    )


def is_view(node: fx.Node) -> bool:
    """Does the node's result share memory with its argument?"""
    schema = schema_of(node.target)
    return schema is not None and any(
        returned.alias_info is not None and not returned.alias_info.is_write for returned in schema.returns
    )


def is_in_place(target: Any) -> bool:
    """Does the operator overwrite its first argument?"""
    schema = schema_of(target)
    return schema is not None and str(schema.name).endswith("_")


def schema_of(target: Any) -> Any:
    """The signature of an ATen operator; None for anything else."""
    return getattr(target, "_schema", None)


def operator_name(target: Any) -> str:
    """`aten::add_.Tensor` -> `add`; operators of other libraries keep their full name."""
    schema = schema_of(target)
    if schema is None:
        return str(getattr(target, "__name__", target))
    library, _, name = str(schema.name).partition("::")
    if library != "aten":
        return str(schema.name)
    return name if name.startswith("__") else name.rstrip("_")
