"""Whole layers as units: residual blocks that fall silent when their weights are zero, and can then go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from esper.anatomy.cut.layers.blocks import Sum, sums, unread
from esper.anatomy.graph import Traced
from esper.anatomy.proof import Inputs
from esper.anatomy.structure import Anatomy, Gate, Group, Kind, Member, Term
from esper.anatomy.twin import Twin
from esper.arrays import IntArray

PREFIX = "layer:"
"""Begins the name of every group that is a layer; the rest is where its last weight lies.

That names the block in `remove_blocks` too, and stays when others go, as names of blocks may not."""

_SAMPLES = 8
"""Samples on which a block must be silent."""


def with_layers(anatomy: Anatomy, traced: Traced, state: Mapping[str, Tensor], sample: Any) -> Anatomy:
    """The anatomy with every residual block that can be masked as one more group, of one unit.

    Groups and units that are there keep their numbers; layers come after them. A layer's members are all its
    parameters, whole. A block is left out if zeros in them do not make it add zeros to its stream (a gate of
    `sigmoid(0)`, weights that others use too), because a mask could not stand for its removal then; or if it
    adds zeros in any case, because then it has gone already. Both are tried with weights that are made up, so
    the answer is about the network's code and not about what it has learned.

    Args:
        anatomy: of the network, without layers.
        traced: the network with its loss.
        state: its tensors by name, for shapes and types.
        sample: one batch `(input, target)`.
    """
    trial = _Trial.of(traced, state, sample)
    found = sums(traced)
    # Where units are read already: an argument is gated once.
    taken = {(gate.node, gate.argument) for gate in anatomy.gates}
    added = trial.added({}, found)
    layers: dict[str, tuple[Sum, tuple[Member, ...]]] = {}
    for one, value in zip(found, added, strict=True):
        members = _members(anatomy, one)
        name = _name(one, members, found, state)
        is_new = name not in layers and (one.node.name, _argument(one)) not in taken
        if not name or not is_new or not value.any():
            continue
        zeros = {member.tensor: torch.zeros_like(state[member.tensor]) for member in members}
        if not trial.added(zeros, [one])[0].any():  # a NaN is no zero
            layers[name] = one, members
    return _joined(anatomy, layers)


def block_names(anatomy: Anatomy, units: IntArray) -> tuple[str, ...]:
    """What these units, which are layers, are called in `remove_blocks`."""
    groups = (anatomy.groups[int(anatomy.group_of[unit])].name for unit in units.tolist())
    return tuple(name.removeprefix(PREFIX) for name in groups)


def _joined(anatomy: Anatomy, found: Mapping[str, tuple[Sum, tuple[Member, ...]]]) -> Anatomy:
    around: dict[str, list[int]] = {}
    groups, gates = [*anatomy.groups], [*anatomy.gates]
    for unit, (name, (one, members)) in enumerate(found.items(), start=anatomy.num_units):
        groups.append(Group(PREFIX + name, Kind.LAYER, 1, members, least=0))
        # One unit, all over what is added.
        everywhere = np.full((1,) * _dims(one.added), unit, np.int64)
        gates.append(Gate(one.node.name, _argument(one), everywhere))
        # All work that only the block needs goes with it.
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


def _name(one: Sum, members: Sequence[Member], found: Sequence[Sum], state: Mapping[str, Tensor]) -> str:
    """Where the last weight matrix of a block lies, or its last vector; empty if it has none of its own.

    What blocks inside of it hold too does not count: its name must not be one of theirs.
    """
    mine = set(one.block.tensors)
    inside = {name for other in found if mine > set(other.block.tensors) for name in other.block.tensors}
    names = [member.tensor for member in members if member.tensor not in inside]
    matrices = [name for name in names if state[name].dim() > 1]
    return (matrices or names or [""])[-1].removesuffix(".weight")


@dataclass(frozen=True)
class _Trial:
    """The network with made-up weights, on a few samples."""

    twin: Twin
    places: Mapping[fx.Node, int]
    state: Mapping[str, Tensor]
    batch: Any

    @classmethod
    def of(cls, traced: Traced, state: Mapping[str, Tensor], sample: Any) -> _Trial:
        twin = Twin.of(traced)
        places = {node: position for position, node in enumerate(traced.program.graph.nodes)}
        random = torch.Generator().manual_seed(0)
        # By name, so that the order of a dictionary does not matter.
        made_up = {name: _made_up(value, random) for name, value in sorted(state.items())}
        return cls(twin, places, made_up, _first(sample, twin))

    def added(self, instead: Mapping[str, Tensor], blocks: Sequence[Sum]) -> list[Tensor]:
        """What blocks add to their streams, with some weights replaced."""
        seen: dict[Sum, Tensor] = {}

        def look(one: Sum) -> Callable[[Tensor], Tensor]:
            def keep(value: Tensor) -> Tensor:
                seen[one] = value.detach().clone()
                return value

            return keep

        gates = {(self.places[one.node], _argument(one)): look(one) for one in blocks}
        with torch.no_grad():
            self.twin.run({**self.state, **instead}, self.batch, gates)
        return [seen[one] for one in blocks]


def _made_up(value: Tensor, random: torch.Generator) -> Tensor:
    """Numbers that nothing cancels, of a size that keeps signals at theirs; integers stay as they are."""
    if not value.is_floating_point() or value.is_sparse:
        return value
    # Weights of size 1 / sqrt(inputs) keep signals at their size.
    fan_in = value[0].numel() if value.dim() > 1 else 1
    drawn = torch.rand(value.shape, generator=random) + 0.5  # positive: some are variances
    signs = torch.randint(0, 2, value.shape, generator=random) * 2 - 1 if value.dim() > 1 else 1
    made_up: Tensor = (drawn * signs / fan_in**0.5).to(value)
    return made_up


def _argument(one: Sum) -> int:
    return one.node.args.index(one.added)


def _dims(node: fx.Node) -> int:
    value: Tensor = node.meta["val"]
    return value.dim()


def _first(sample: Any, twin: Twin) -> Any:
    """A few samples of a batch, where the graph takes any number of them."""
    (fewer,) = Inputs((sample,), {}).first(_SAMPLES).args
    return fewer if twin.is_batch_dynamic and twin.takes(fewer) else sample
