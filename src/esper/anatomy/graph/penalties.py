"""Penalties on weights in a loss: terms that no sample changes, and that say nothing of what units do."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx
from torch.export import ExportedProgram

from esper.anatomy.graph.coupling import inputs_of
from esper.anatomy.graph.lowering import is_in_place, operator_name

_SUMS = ("add", "sub")
_SCALES = ("mul", "div", "neg", "sum", "mean", "view", "reshape", "squeeze", "unsqueeze", "clone", "to")
"""What of a sum is the sum of the same of its terms."""
_SIZES = (int, torch.SymInt)


def drop_penalties(program: ExportedProgram) -> None:
    """Takes terms that depend on parameters alone out of the loss, the first output of the program.

    A mask would lower such a term whatever it costs, and one that is not zero for a weight of zero, such as a
    divergence of distributions over weights, would keep every unit that it reads.
    """
    graph = program.graph
    moved = _of_samples(program)
    (outputs,) = next(node for node in graph.nodes if node.op == "output").args
    loss = outputs[0]
    dropped = list(_without_penalties(loss, moved)) if _is_read_once(loss) and loss not in outputs[1:] else []
    for whole, rest in dropped:
        whole.replace_all_uses_with(rest)
    names = {whole.name: rest.name for whole, rest in dropped}
    if not names:
        return
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and (node.name in names or node not in moved):
            graph.erase_node(node)
    for spec in program.graph_signature.output_specs:
        while spec.arg.name in names:
            spec.arg.name = names[spec.arg.name]
    graph.lint()


def _of_samples(program: ExportedProgram) -> set[fx.Node]:
    """What depends on what the network and the loss are given, and not only on how many samples that is."""
    moved = set(inputs_of(program))
    for node in program.graph.nodes:
        is_size = isinstance(node.meta.get("val"), _SIZES)  # the rest are tensors, and several at once
        if not is_size and not moved.isdisjoint(node.all_input_nodes):
            moved.add(node)
    return moved


def _without_penalties(node: fx.Node, moved: set[fx.Node]) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Sums along the way from the loss, each with the term of it that is left."""
    name = operator_name(node.target) if node.op == "call_function" else ""
    operands = [argument for argument in node.args if isinstance(argument, fx.Node)]
    terms = [operand for operand in operands if operand in moved]
    if name in _SUMS and len(operands) == 2 and _is_left(node, operands, terms):
        yield node, terms[0]
    if name in _SUMS or (name in _SCALES and terms == operands[:1]):
        for term in filter(_is_read_once, terms):
            yield from _without_penalties(term, moved)


def _is_read_once(node: fx.Node) -> bool:
    """Whether nothing but the way to the loss reads it: it can be another number then."""
    return len(node.users) == 1


def _is_left(node: fx.Node, operands: list[fx.Node], terms: list[fx.Node]) -> bool:
    """Whether of a sum one term is left, as it stands there, without one that is a number for all samples.

    What has axes may be a bias. Nobody else may read what a sum writes into.
    """
    if len(terms) != 1:
        return False
    (term,) = terms
    is_number = all(getattr(other.meta["val"], "ndim", 0) == 0 for other in operands if other is not term)
    is_as_it_is = term is node.args[0] or (operator_name(node.target) == "add" and not node.kwargs)
    is_free = not is_in_place(node.target) or _is_read_once(term)
    return is_number and is_as_it_is and _alike(node, term) and is_free


def _alike(node: fx.Node, other: fx.Node) -> bool:
    ours, theirs = node.meta["val"], other.meta["val"]
    return (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
