"""Layers that read units through a weight, and the second moments of what they are fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from esper.anatomy.labels import BIAS, CONVOLUTIONS, LINEAR, PADDING, groups_of
from esper.anatomy.mend.moments import Moments, best_ridge
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import Twin

MAX_INPUTS = 8192
"""Widest layer that is looked at; its second moments are a matrix of this size."""

INPUT_AXIS = 1
"""The axis of the weights that reads units."""

_aten = torch.ops.aten


@dataclass(eq=False)
class Reader:
    """A weight that reads units along its input axis, at one or several nodes, and what it reads there.

    Attributes:
        weight: its name.
        axis: the axis of what it reads that carries the units.
        bias: the bias that is added to what it makes; None if there is none of its own.
        is_padded: at the borders it reads zeros instead of units, so a constant is none there.
        forgets_constants: what follows subtracts the mean of every output.
        positions: the nodes.
        halves: what is seen there while it is watched, in two parts; None before and afterwards.
        moments: what was seen there; None before it was watched.
        ridge: share of the inputs' mean square that goes onto the diagonal of a fit: as much as serves inputs
            that were not fitted to.
    """

    weight: str
    axis: int
    bias: str | None
    is_padded: bool
    forgets_constants: bool
    positions: list[int] = field(default_factory=list)
    halves: tuple[Moments, Moments] | None = None
    moments: Moments | None = None
    ridge: float = 0.0

    @property
    def is_constant_free(self) -> bool:
        """Does a constant added to the inputs cost nothing, because bias or norm can take it back?"""
        return not self.is_padded and (self.bias is not None or self.forgets_constants)

    def look(self, value: Tensor) -> Tensor:
        """A gate that only watches."""
        if not value.numel():  # an expert that no token was sent to
            return value
        # [everything else, inputs].
        rows = value.detach().movedim(self.axis, -1).flatten(0, -2)
        middle = len(rows) // value.shape[0] * (value.shape[0] // 2)  # no sample is in both halves
        new = Moments.of(rows[:middle]), Moments.of(rows[middle:])
        self.halves = new if self.halves is None else (self.halves[0] + new[0], self.halves[1] + new[1])
        return value

    def settle(self, weight: Tensor) -> None:
        """After it was watched: finds its ridge, and makes one of both halves."""
        if self.halves is not None:
            first, second = self.halves
            if first.is_finite and second.is_finite:
                self.ridge = best_ridge(self.halves, weight, is_centered=self.is_constant_free)
            self.moments, self.halves = first + second, None

    @property
    def is_usable(self) -> bool:
        """Was it watched, and were all of its inputs numbers?"""
        return self.moments is not None and self.moments.is_finite

    @property
    def seen(self) -> Moments:
        """All that was seen."""
        if self.moments is None:
            raise ValueError(f"{self.weight} was not watched")
        return self.moments


def readers_of(twin: Twin, anatomy: Anatomy, weights: set[str]) -> list[Reader]:
    """The readers of these weights; a weight that also serves elsewhere, or in another way, is left out."""
    known = {alias: info.name for info in anatomy.tensors for alias in (info.name, *info.aliases)}
    readers: dict[str, Reader] = {}
    odd: set[str] = set()
    for position, node, argument, name in _uses(twin, known):
        if name not in weights:
            continue
        axis = _input_axis(node, argument)
        if axis is None or argument.meta["val"].is_complex():
            odd.add(name)  # it also serves elsewhere, as a tied embedding does, or is complex
            continue
        reader = readers.setdefault(name, Reader(name, axis, _bias(node, twin, known), False, True))
        reader.positions.append(position)
        # At several nodes: padded if it is at any of them, forgetful only if it is at all.
        reader.is_padded |= _is_padded(node)
        reader.forgets_constants &= _is_normed(node)
        if reader.bias != _bias(node, twin, known):
            reader.bias = None
    shared = _used_twice(twin, known)
    for reader in readers.values():
        # A bias that also serves elsewhere cannot take one reader's constant back.
        if len(reader.positions) > 1 or reader.bias in shared:
            reader.bias = None
    return [reader for name, reader in readers.items() if name not in odd]


def watch(twin: Twin, state: Mapping[str, Tensor], readers: Sequence[Reader], batches: Sequence[Any]) -> None:
    """Runs the batches, adds what the readers are fed to their moments, and finds their ridges."""
    gates: dict[tuple[int, int], Callable[[Tensor], Tensor]] = {
        (position, 0): reader.look for reader in readers for position in reader.positions
    }
    if not gates:
        return
    with torch.no_grad():
        for batch in batches:
            twin.run(state, batch, gates)
    for reader in readers:
        reader.settle(state[reader.weight])


def _uses(twin: Twin, known: Mapping[str, str]) -> Iterator[tuple[int, fx.Node, fx.Node, str]]:
    """Every node that takes a parameter or buffer: position, node, the argument, its name."""
    for position, node in enumerate(twin.program.graph.nodes):
        for argument in node.all_input_nodes:
            name = known.get(twin.names.get(argument.name, ""))
            if name is not None:
                yield position, node, argument, name


def _used_twice(twin: Twin, known: Mapping[str, str]) -> set[str]:
    names: set[str] = set()
    twice: set[str] = set()
    for _, _, _, name in _uses(twin, known):
        (twice if name in names else names).add(name)
    return twice


def _input_axis(node: fx.Node, weight: fx.Node) -> int | None:
    """Where the units are in what this node reads through `weight`; None if it is not understood."""
    is_known = node.target is LINEAR or node.target in CONVOLUTIONS
    if not is_known or len(node.args) < 2 or node.args[1] is not weight:
        return None
    if weight.meta["val"].shape[INPUT_AXIS] > MAX_INPUTS:
        return None
    if node.all_input_nodes[0].meta["val"].dim() < 2:  # a vector of the network's own: there is but one
        return None
    if node.target is LINEAR:
        return -1
    return 1 if groups_of(node) == 1 else None


def _bias(node: fx.Node, twin: Twin, known: Mapping[str, str]) -> str | None:
    bias = node.args[BIAS] if len(node.args) > BIAS else None
    return known.get(twin.names.get(bias.name, "")) if isinstance(bias, fx.Node) else None


def _is_normed(node: fx.Node) -> bool:
    """Does a batch norm read all that this node makes?"""
    return bool(node.users) and all(user.target is _aten.batch_norm.default for user in node.users)


def _is_padded(node: fx.Node) -> bool:
    if node.target is LINEAR:
        return False
    padding: Any = node.args[PADDING] if len(node.args) > PADDING else 0
    return padding not in (0, "valid") and padding != [0] * len(padding)
