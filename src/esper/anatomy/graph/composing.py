"""Operators that torch composes of others, put into a graph as what they stand for, one call at a time.

The exporter knows how to do that for a whole program, but traces all of it anew for it, which takes several
times as long as the first trace did.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from esper.anatomy.graph.inlining import write_in
from esper.anatomy.graph.lowering import decompositions, is_in_place, loosen, name_outputs, unknown_calls

_ORIGIN = ("nn_module_stack", "stack_trace", "torch_fn")
"""What a node knows of the code that it comes from."""


def compose(program: ExportedProgram) -> None:
    """Writes calls of operators without a rule into the graph around them, where torch knows how.

    A call stays that does not take tensors alone, or whose parts write into memory or hold values of their
    own.
    """
    calls = unknown_calls(program)
    table = decompositions({call.target for call in calls})
    changed: dict[fx.GraphModule, None] = {}
    for call in calls:
        module = call.graph.owning_module
        if call.target not in table or module is None:
            continue
        body = _body(call, table[call.target])
        if body is not None:
            write_in(module, call, body, call.all_input_nodes)
            changed[module] = None
    for module in changed:
        module.graph.lint()
        loosen(module)
    name_outputs(program)


def _body(call: fx.Node, meaning: Callable[..., Any]) -> fx.GraphModule | None:
    """What a call stands for, as a graph over its input nodes; None where that cannot take its place."""
    inputs = call.all_input_nodes
    values = [node.meta.get("val") for node in inputs]
    fakes = [value for value in values if isinstance(value, FakeTensor)]
    if not values or len(fakes) < len(values):
        return None

    def meant(*given: Tensor) -> Any:
        known = dict(zip(inputs, given, strict=True))
        args, kwargs = fx.node.map_arg((call.args, call.kwargs), known.__getitem__)
        return pytree.tree_leaves(meaning(*args, **kwargs))

    with fakes[0].fake_mode, torch.enable_grad():
        body = make_fx(meant, pre_dispatch=True)(*values)
    body.graph.eliminate_dead_code()
    for node in body.graph.nodes:
        if node.op == "get_attr" or (node.op == "call_function" and is_in_place(node.target)):
            return None
        node.meta.update({key: call.meta[key] for key in _ORIGIN if key in call.meta})
    return body
