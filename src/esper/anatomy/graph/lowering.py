"""Operators that torch composes of others, and writes into views, written out as what they stand for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram, default_decompositions
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree

from esper.anatomy.graph.exporting import exporting
from esper.anatomy.graph.recurrence import decomposed
from esper.anatomy.labels.rules import RULES

_LOSSES = ("loss", "cross_entropy", "kl_div")  # what reaches them is an output, however they are written


def lowered(program: ExportedProgram, *, with_writes: bool = False) -> ExportedProgram:
    """The program with what has no rule written out, where torch knows how; else the program itself.

    `multiply` becomes `mul`, a cell of an LSTM its products and gates, `x[:, :4] = y` a tensor that is put
    together from pieces; with `with_writes` so does every other operator that writes. Programs that write
    into their inputs or buffers stay as they are.
    """
    table = decompositions({node.target for node in unknown_calls(program)})
    graphs = [part.graph for part in parts_of(program)]
    if not table and not any(_writes_into_views(graph, anywhere=with_writes) for graph in graphs):
        return program
    with exporting():
        written_out = decomposed(program, table)
    # A write that reaches an input or a buffer would have become an output more.
    if any(spec.kind is not OutputKind.USER_OUTPUT for spec in written_out.graph_signature.output_specs):
        return program
    for part in parts_of(written_out):
        loosen(part)
    name_outputs(written_out)
    return written_out


def unknown_calls(program: ExportedProgram) -> list[fx.Node]:
    """Calls of operators that have no rule, where that matters: on the way from the network's tensors."""
    outer, *bodies = [part.graph for part in parts_of(program)]
    computed = _computed_from(program.graph_signature.inputs_to_parameters.keys(), outer)
    inside = [node for graph in bodies for node in graph.nodes]  # there everything matters
    return [node for node in (*computed, *inside) if _is_unknown(node)]


def parts_of(program: ExportedProgram) -> list[fx.GraphModule]:
    """The graph and those inside it."""
    return [part for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]


def _computed_from(names: Iterable[str], graph: fx.Graph) -> dict[fx.Node, None]:
    """Nodes that depend on these placeholders; what masks and positions are made of does not matter."""
    computed: dict[fx.Node, None] = {}
    known = set(names)
    for node in graph.nodes:
        if node.name in known or any(given in computed for given in node.all_input_nodes):
            computed[node] = None
    return computed


def _is_unknown(node: fx.Node) -> bool:
    if schema_of(node.target) is None or not _gives_tensors(node):
        return False
    name = operator_name(node.target)
    return name not in RULES and not any(part in name for part in _LOSSES)


def _gives_tensors(node: fx.Node) -> bool:
    return any(isinstance(value, Tensor) for value in pytree.tree_leaves(node.meta.get("val")))


_COMPLEX_WITHOUT_DERIVATIVE = (torch.ops.aten.slice_scatter.default, torch.ops.aten.select_scatter.default)


def loosen(part: fx.GraphModule) -> None:
    """Takes back what holds only for the strides and sizes of the trace: gates run in other batches.

    And what has no derivative, although what it stands for has one.
    """
    for node in list(part.graph.nodes):
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
        elif node.target is torch.ops.aten.slice_scatter.default and _writes_all(node.args[3:]):
            node.replace_all_uses_with(node.args[1])
            part.graph.erase_node(node)
        elif node.target in _COMPLEX_WITHOUT_DERIVATIVE and node.meta["val"].is_complex():
            _write_in_pairs(node)
        elif node.target is torch.ops.aten.copy.default:
            node.replace_all_uses_with(_copied(node, *node.all_input_nodes))
            part.graph.erase_node(node)
    part.recompile()


def _write_in_pairs(call: fx.Node) -> None:
    """Torch knows no derivative of a write into complex numbers, but of one into both of their parts."""
    operator: Any = call.target
    args: Any = call.args
    target, written, *bounds = args
    graph, whole = call.graph, call.meta["val"]
    pairs: list[Any] = []
    with graph.inserting_before(call):
        for part in (target, written):
            pairs.append(graph.call_function(torch.ops.aten.view_as_real.default, (part,)))
            pairs[-1].meta.update(call.meta, val=torch.view_as_real(part.meta["val"]))
        axis = bounds[0] % whole.dim() if bounds else 0  # from the front: pairs have one axis more
        real = graph.call_function(operator, (*pairs, axis, *bounds[1:]), call.kwargs)
        real.meta.update(call.meta, val=torch.view_as_real(whole))
    with graph.inserting_after(real):
        joined = graph.call_function(torch.ops.aten.view_as_complex.default, (real,))
    joined.meta.update(call.meta)
    call.replace_all_uses_with(joined)
    graph.erase_node(call)


def _copied(call: fx.Node, target: fx.Node, source: fx.Node | None = None) -> fx.Node:
    """What a copy into a tensor gives: the source, in shape and type of that tensor."""
    if source is None:  # a copy of itself
        return target
    wanted, given = target.meta["val"], source.meta["val"]
    for is_alike, operator in (
        (wanted.shape == given.shape, torch.ops.aten.expand_as.default),
        (wanted.dtype == given.dtype, torch.ops.aten.type_as.default),
    ):
        if not is_alike:
            with call.graph.inserting_before(call):
                source = call.graph.call_function(operator, (source, target))
            source.meta.update(call.meta)
    return source


def name_outputs(program: ExportedProgram) -> None:
    """Puts the names of the outputs that there are into the signature: others may have taken their places."""
    signature, results = program.graph_signature, program.graph.output_node().args[0]
    for spec, result in zip(signature.output_specs, results, strict=True):
        if isinstance(result, fx.Node) and spec.arg.name != result.name:
            signature.replace_all_uses(spec.arg.name, result.name)


def _writes_all(bounds: tuple[Any, ...]) -> bool:
    """Is nothing left of the target of `slice_scatter` with these bounds (start, end, step)?"""
    everything = ((0, None), (sys.maxsize, None), (1,))
    return all(bound in whole for bound, whole in zip(bounds, everything, strict=False))


def decompositions(composed: set[Any]) -> dict[Any, Any]:
    """How to write these operators out, for those of which torch knows it."""
    if not composed:
        return {}
    known = default_decompositions()
    return {target: known[target] for target in composed if target in known}


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
    name = "" if schema is None else str(schema.name)
    return name.endswith("_") and not name.endswith("__")  # `aten::__and__` writes nowhere


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
