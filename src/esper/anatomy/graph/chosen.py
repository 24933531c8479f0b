"""Rows that values choose, such as the tokens of an expert: how many there are, a run shows."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from statistics import mean
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from esper.anatomy.graph.coupling import inputs_of
from esper.anatomy.graph.refusal import refuse
from esper.batches import repeated, samples

Counts = Mapping[str, int]
"""For every size that depends on values, by its symbol in the graph, what it stands for."""


def chosen_rows(
    program: ExportedProgram,
    model: nn.Module,
    inputs: tuple[Any, Any, Any],
    *,
    loss: Any = None,
    takes_any: bool,
) -> Counts:
    """How many rows were chosen of `inputs`, in proportion for as many samples as were traced; at least one.

    Two samples choose too few rows to tell what an expert costs, so all of them are run, if the graph
    `takes_any` number; else as many as it is for. What is chosen alike, as by all experts of a layer, counts
    with its mean: that stays when the router learns. Nothing is run where no size depends on values.

    Args:
        program: the graph of `model`, and of `loss` if there is one.
        model: in eval mode.
        inputs: positional inputs, keyword inputs, and target.
        loss: `loss(output, target)`, or None where the network was followed alone.
        takes_any: whether the graph takes any number of samples.

    Raises:
        UntraceableError: the graph fails on the inputs, or the network itself does.
        ConfigError: the inputs do not fit the network, or the loss fails on what it gives.
    """
    if not any(free_unbacked_symbols(size) for node in program.graph.nodes for size in _sizes(node.meta)):
        return {}
    firsts = [node.meta["val"].shape[:1] for node in inputs_of(program)]
    batch = max((int(concrete(size, {})) for first in firsts for size in first), default=1)
    if not takes_any and samples(inputs) != batch:
        inputs = repeated(inputs, batch)
    try:
        run = _counted(program, inputs)
    except Exception as error:  # more samples than were traced: whatever their values lead to
        refuse(model, loss, inputs, error)
        raise  # not reached: a refusal always raises
    alike = {
        name: [run.counts[other] for other in run.ways if run.ways[other] == run.ways[name]]
        for name in run.ways
    }
    share = batch / samples(inputs)
    return {name: max(1, round(mean(counts) * share)) for name, counts in alike.items()}


def _counted(program: ExportedProgram, inputs: tuple[Any, Any, Any]) -> _Counting:
    leaves, tensors = iter(pytree.tree_leaves(inputs)), {**program.state_dict, **program.constants}
    values = [
        next(leaves) if spec.kind is InputKind.USER_INPUT else tensors[str(spec.target)]
        for spec in program.graph_signature.input_specs
    ]
    run = _Counting(program.graph_module)
    with torch.no_grad():
        run.run(*values, enable_io_processing=False)
    return run


def concrete(value: Any, counts: Counts) -> Any:
    """The number that a symbolic one stood for in the trace, or for rows that values choose, by `counts`."""
    if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value
    node = value.node
    if node.hint is not None:
        return node.hint
    known = {symbol: counts.get(str(symbol), 1) for symbol in free_unbacked_symbols(value)}
    return node.pytype(node.expr.xreplace({**node.shape_env.backed_var_to_val, **known}))


def keep_parts_together(program: ExportedProgram) -> None:
    """Puts the parts of every result right behind it, in their order, as they stand where it is loaded."""
    graph = program.graph
    for node in list(graph.nodes):
        parts = [user for user in node.users if user.target is operator.getitem and user.args[0] is node]
        for part in sorted(parts, key=lambda part: part.args[1], reverse=True):
            node.append(part)


class _Counting(fx.Interpreter):
    """`counts` of every size that depends on values, and the `ways` in which they were chosen."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.counts: dict[str, int] = {}
        self.ways: dict[str, tuple[str, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for traced, seen in zip(_sizes(n.meta), _sizes({"val": result}), strict=False):
            if isinstance(traced, torch.SymInt) and traced.node.expr in free_unbacked_symbols(traced):
                given = [str(_sizes(node.meta)) for node in n.all_input_nodes]
                self.ways.setdefault(str(traced), (str(n.target), *given))
                self.counts[str(traced)] = int(seen)
        return result


def _sizes(meta: Mapping[str, Any]) -> list[int | torch.SymInt]:
    """The sizes of all tensors that an operator gives, and its numbers."""
    leaves = pytree.tree_leaves(meta.get("val"))
    shapes = [leaf.shape if isinstance(leaf, Tensor) else [leaf] for leaf in leaves]
    return [size for shape in shapes for size in shape if isinstance(size, (int, torch.SymInt))]
