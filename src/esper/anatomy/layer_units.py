"""Whole layers as units: residual blocks that fall silent when their weights are zero, and can then go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from esper.anatomy.blocks import Sum, sums, unread
from esper.anatomy.structure import Anatomy, Gate, Group, IntArray, Kind, Member, Term
from esper.anatomy.trace import Traced
from esper.anatomy.twin import Twin

PREFIX = "layer:"
"""Begins the name of every group that is a layer; the rest is where its last weight lies.

That names the block in `remove_blocks` too, and stays when others go, as names of blocks may not."""

_SAMPLES = 8
"""Samples on which a block must be silent."""


def with_layers(anatomy: Anatomy, traced: Traced, state: Mapping[str, Tensor], sample: Any) -> Anatomy:
    """The anatomy with every residual block that can be masked as one more group, of one unit.

    Groups and units that are there keep their numbers; layers come after them. A layer's members are all its
    parameters, whole. A block is left out if zeros in them do not make it add zeros to its stream (a gate of
    `sigmoid(0)`, weights that others use too), because a mask could not stand for its removal then.

    Args:
        anatomy: of the network, without layers.
        traced: the network with its loss.
        state: its tensors by name.
        sample: one batch `(input, target)`.
    """
    twin = Twin.of(traced)
    places = {node: position for position, node in enumerate(traced.program.graph.nodes)}
    taken = {(gate.node, gate.argument) for gate in anatomy.gates}
    batch = _first(sample, twin)
    found: dict[str, tuple[Sum, tuple[Member, ...]]] = {}
    for one in sums(traced):
        members = _members(anatomy, one)
        is_new = (one.node.name, _argument(one)) not in taken
        if members and is_new and _is_silent(twin, places, state, batch, one, members):
            found.setdefault(_name(members, state), (one, members))  # of nested ones the innermost
    return _joined(anatomy, found)


def block_names(anatomy: Anatomy, units: IntArray) -> tuple[str, ...]:
    """What these units, which are layers, are called in `remove_blocks`."""
    groups = (anatomy.groups[int(anatomy.group_of[unit])].name for unit in units.tolist())
    return tuple(name.removeprefix(PREFIX) for name in groups)


def _joined(anatomy: Anatomy, found: Mapping[str, tuple[Sum, tuple[Member, ...]]]) -> Anatomy:
    around: dict[str, list[int]] = {}
    groups, gates = [*anatomy.groups], [*anatomy.gates]
    for unit, (name, (one, members)) in enumerate(found.items(), start=anatomy.num_units):
        groups.append(Group(PREFIX + name, Kind.LAYER, 1, members, least=0))
        everywhere = np.full((1,) * _dims(one.added), unit, np.int64)
        gates.append(Gate(one.node.name, _argument(one), everywhere))
        for node in unread(one.node.graph, [one]):
            around.setdefault(node.name, []).append(unit)

    def within(terms: Sequence[Term]) -> tuple[Term, ...]:
        """The same terms; each costs nothing once a layer around it is gone."""
        return tuple(
            replace(t, factors=(*t.factors, *(np.array([u], np.int64) for u in around.get(t.node, ()))))
            for t in terms
        )

    return replace(
        anatomy,
        groups=tuple(groups),
        gates=tuple(gates),
        terms=within(anatomy.terms),
        activations=within(anatomy.activations),
    )


def _members(anatomy: Anatomy, one: Sum) -> tuple[Member, ...]:
    """All of every parameter of a block; numbers without an axis stay, for there is none to name."""
    own = set(one.block.tensors)
    return tuple(
        Member(info.name, 0, np.arange(info.shape[0], dtype=np.int64)[None], "producer")
        for info in anatomy.tensors
        if info.is_parameter and info.name in own and info.shape
    )


def _name(members: Sequence[Member], state: Mapping[str, Tensor]) -> str:
    """Where the last weight matrix of a block lies, or its last vector where it has none."""
    names = [member.tensor for member in members]
    matrices = [name for name in names if state[name].dim() > 1]
    return (matrices or names)[-1].removesuffix(".weight")


def _is_silent(
    twin: Twin,
    places: Mapping[fx.Node, int],
    state: Mapping[str, Tensor],
    batch: Any,
    one: Sum,
    members: Sequence[Member],
) -> bool:
    """Does the block add nothing but zeros when its parameters are zero?"""
    zeroed = {m.tensor: torch.zeros_like(state[m.tensor]) for m in members}
    added: list[bool] = []

    def look(value: Tensor) -> Tensor:
        added.append(not bool(value.count_nonzero()))
        return value

    with torch.no_grad():
        twin.run({**state, **zeroed}, batch, {(places[one.node], _argument(one)): look})
    return bool(added) and all(added)


def _argument(one: Sum) -> int:
    return one.node.args.index(one.added)


def _dims(node: fx.Node) -> int:
    value: Tensor = node.meta["val"]
    return value.dim()


def _first(sample: Any, twin: Twin) -> Any:
    """A few samples of a batch, where the graph takes any number of them."""

    def few(leaf: Any) -> Any:
        is_batched = isinstance(leaf, Tensor) and leaf.dim() > 0 and leaf.shape[0] == twin.batch
        return leaf[:_SAMPLES] if is_batched else leaf

    fewer = pytree.tree_map(few, sample)
    return fewer if twin.is_batch_dynamic and twin.takes(fewer) else sample
