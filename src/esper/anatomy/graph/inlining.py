"""Regions of `torch.no_grad()` and of autocast that is switched off, written into the graph around them.

What the exporter keeps in a graph of its own can be followed, but neither read nor gated in the twin, so its
units could not be measured. Where the region means nothing but what its operators say, it need not be apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from esper.anatomy.graph.lowering import is_in_place, operator_name

_NO_GRAD, _AUTOCAST = "wrap_with_set_grad_enabled", "wrap_with_autocast"
_ENABLED = {_NO_GRAD: 0, _AUTOCAST: 2}
"""Which argument says whether gradients, or lower precision, are switched on inside."""


def inline_regions(program: ExportedProgram) -> None:
    """Writes every region into the graph around it where that computes the same, gradients included.

    Regions stay apart that switch autocast on (their operators then run in another precision), that switch
    gradients on inside a region without them, and that overwrite tensors where no gradient is recorded.
    """
    if _inline_in(program.graph_module):
        program.graph_module.graph.lint()
        program.graph_module.recompile()


def _inline_in(module: fx.GraphModule) -> bool:
    changed = False
    for node in list(module.graph.nodes):
        name = getattr(node.target, "__name__", "")
        if node.op != "call_function" or name not in _ENABLED:
            continue
        # One argument is the region's body; those behind it are its inputs.
        place, body = next(found for found in enumerate(_bodies(module, node)) if found[1] is not None)
        _inline_in(body)
        if _means_only_its_operators(body, name, node.args[_ENABLED[name]]):
            write_in(module, node, body, node.args[place + 1 :], cut_gradient=name == _NO_GRAD)
            changed = True
    module.delete_all_unused_submodules()
    return changed


def _bodies(module: fx.GraphModule, node: fx.Node) -> Iterator[Any]:
    """For every argument the graph that it stands for, or None."""
    for arg in node.args:
        named = isinstance(arg, fx.Node) and arg.op == "get_attr"
        value = getattr(module, str(arg.target), None) if named and isinstance(arg, fx.Node) else None
        yield value if isinstance(value, fx.GraphModule) else None


def _means_only_its_operators(body: fx.GraphModule, name: str, is_enabled: Any) -> bool:
    inner = [node for node in body.graph.nodes if node.op == "call_function"]
    holds_region = any(getattr(node.target, "__name__", "") in _ENABLED for node in inner)
    overwrites = any(is_in_place(node.target) and operator_name(node.target) != "detach" for node in inner)
    return is_enabled is False and not holds_region and not (overwrites and name == _NO_GRAD)


def write_in(
    module: fx.GraphModule,
    call: fx.Node,
    body: fx.GraphModule,
    inputs: Sequence[Any],
    *,
    cut_gradient: bool = False,
) -> None:
    """A body's operators in place of a call that gives what they give, as one value or several.

    Args:
        module: holds the call.
        call: goes.
        body: computes the same.
        inputs: of the body: nodes of the module's graph, or plain values.
        cut_gradient: whether nothing is to be differentiated through it: then it ends in a `detach`.
    """
    graph, given = module.graph, iter(inputs)
    values: dict[fx.Node, Any] = {}
    with graph.inserting_before(call):
        for node in body.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = graph.get_attr(_moved(module, body, str(node.target)))
            elif node.op != "output":
                values[node] = graph.node_copy(node, values.__getitem__)
        outputs = [values.get(result, result) for result in _results(body)]
        if cut_gradient:
            outputs = [_detached(graph, result) for result in outputs]
    if isinstance(call.meta.get("val"), Tensor):
        call.replace_all_uses_with(outputs[0])
    # Else it gives a tuple. Whoever took a part of it now reads the operator that makes that part.
    for part in list(call.users):
        part.replace_all_uses_with(outputs[int(str(part.args[1]))])
        graph.erase_node(part)
    graph.erase_node(call)
    graph.eliminate_dead_code(lambda node: node.op != "get_attr")


def _results(body: fx.GraphModule) -> Sequence[Any]:
    (results,) = body.graph.output_node().args
    return results if isinstance(results, (tuple, list)) else (results,)


def _moved(module: fx.GraphModule, body: fx.GraphModule, name: str) -> str:
    """The attribute's name in `module`, where the region's constant now lives."""
    value, number = getattr(body, name), 0
    while hasattr(module, free := f"{name}_of_region_{number}"):
        number += 1
    setattr(module, free, value)
    return free


def _detached(graph: fx.Graph, result: Any) -> Any:
    if not isinstance(result, fx.Node):
        return result
    detached = graph.call_function(torch.ops.aten.detach.default, (result,))
    detached.meta = dict(result.meta)
    return detached
