"""The layers of a network in the order of its graph: what their channels belong to, or why they stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

import numpy as np
from torch import Tensor, fx

from esper.anatomy import Anatomy
from esper.anatomy.graph import Traced, operator_name
from esper.anatomy.labels import Classes, resolve
from esper.anatomy.units import propagate
from esper.arrays import IntArray
from esper.report import MapLayer, MapPart

_CARRIES = (
    "t",
    "transpose",
    "permute",
    "numpy_T",
    "mT",
    "view",
    "reshape",
    "to",
    "_to_copy",
    "alias",
    "contiguous",
)


def layers_of(traced: Traced, anatomy: Anatomy) -> tuple[MapLayer, ...]:
    """Every parameter with two axes or more that makes channels, in the order in which the graph uses it.

    Args:
        traced: the traced network.
        anatomy: its anatomy.
    """
    found = propagate(traced)
    classes = resolve(found.space)
    owners = _owners(anatomy)
    reasons = {axis.name: axis.reason for axis in anatomy.frozen}
    layers = []
    known = {info.name: info for info in anatomy.tensors}
    seen: set[str] = set()
    for name, operator in _uses(traced):
        axes = found.axes[name]
        made = _axis(found.notes.produced, axes, found.space.count, last=operator == "embedding")
        if made is None:
            continue
        called = known[name].aliases[0] if name in seen and known[name].aliases else name
        seen.add(name)
        path = called.rpartition(".")[0] or called
        reads = sorted({n for axis, owner in _of(owners, name) if axis != made for n in owner if n >= 0})
        owner = owners.get((name, made), np.full(len(axes[made]), -1, np.int64))
        parts = tuple(_parts(owner, classes.map(axes[made]), classes, reasons.get(path, "")))
        others = [len(labels) for axis, labels in enumerate(axes) if axis != made]
        layers.append(
            MapLayer(path, operator, others[0] if others else 1, len(axes[made]), parts, tuple(reads))
        )
    return tuple(layers)


def _uses(traced: Traced) -> Iterator[tuple[str, str]]:
    """Tensors of two axes or more with the operators that use them; a tied one occurs with each."""
    seen: set[tuple[str, str]] = set()
    for node in traced.program.graph.nodes:
        if node.op != "call_function":
            continue
        for given in node.all_input_nodes:
            name = traced.names.get(given.name) if given.op == "placeholder" else None
            value = given.meta.get("val")
            if name is None or name.startswith("<") or not isinstance(value, Tensor) or value.dim() < 2:
                continue
            use = (name, operator_name(_real_use(node).target))
            if use not in seen:
                seen.add(use)
                yield use


def _real_use(node: fx.Node) -> fx.Node:
    """What happens to a weight once it is laid out."""
    while operator_name(node.target) in _CARRIES and len(node.users) == 1:
        after = next(iter(node.users))
        if after.op != "call_function":
            break
        node = after
    return node


def _axis(produced: list[Tensor], axes: list[Tensor], count: int, *, last: bool) -> int | None:
    """The axis along which a tensor makes channels."""
    makes = np.zeros(count + 1, np.bool_)
    for layer in produced:
        makes[layer.numpy().ravel()] = True
    makes[0] = False
    hits = [axis for axis, labels in enumerate(axes) if labels.numel() > 1 and makes[labels.numpy()].any()]
    return hits[-1 if last else 0] if hits else None


def _owners(anatomy: Anatomy) -> dict[tuple[str, int], IntArray]:
    """The group of every coordinate of every tensor axis, or -1."""
    shapes = {info.name: info.shape for info in anatomy.tensors}
    owners: dict[tuple[str, int], IntArray] = {}
    for number, group in enumerate(anatomy.groups):
        for member in group.members:
            size = shapes[member.tensor][member.axis]
            axis = owners.setdefault((member.tensor, member.axis), np.full(size, -1, np.int64))
            axis[member.index.ravel()] = number
    return owners


def _of(owners: Mapping[tuple[str, int], IntArray], name: str) -> Iterator[tuple[int, list[int]]]:
    return ((axis, owner.tolist()) for (tensor, axis), owner in owners.items() if tensor == name)


def _parts(owner: IntArray, of_class: IntArray, classes: Classes, otherwise: str) -> Iterator[MapPart]:
    def fate(place: int) -> tuple[int, str]:
        number = int(owner[place])
        if number >= 0:
            return number, ""
        return -1, classes.reason.get(
            int(of_class[place]), ""
        ) or otherwise or "is not made and read by layers"

    for (number, reason), places in groupby(range(owner.size), key=fate):
        yield MapPart(len(list(places)), number, reason)
