"""Finds attention in a twin's graph, and which of its heads belongs to which unit.

Fused attention gives no weights and averages nothing, so its weights are computed again from queries and
keys. Which head is which unit follows from derivatives: a head is the unit whose outputs it reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from esper.anatomy import Anatomy, Kind
from esper.anatomy.twin import Twin
from esper.arrays import IntArray
from esper.elesh.readings import Reading, readings_of

_aten = torch.ops.aten
_FUSED = _aten.scaled_dot_product_attention.default
_SOFTMAX = {_aten.softmax.int, _aten._softmax.default}  # noqa: SLF001  (that is its name)
_PRODUCTS = {_aten.matmul.default}
_PASSED = {_aten.dropout.default, _aten.to.dtype, _aten.contiguous.default, _aten.clone.default}
_HEAD_AXIS = -3


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention of the graph: heads on axis -3 of its weights, [..., heads, queries, keys].

    Attributes:
        node: its name.
        position: the operator's place in the graph.
        is_fused: whether it takes queries, keys and values, or weights and values.
    """

    node: str
    position: int
    is_fused: bool

    @property
    def reached_by(self) -> int:
        """The argument that is multiplied per head to find its unit."""
        return 2 if self.is_fused else 0


def attentions_of(twin: Twin) -> list[Attention]:
    """Every attention with its heads on an axis of their own."""
    found = []
    for position, node in enumerate(twin.program.graph.nodes):
        # Rank 4 is [samples, heads, queries, ...]: heads have an axis of their own.
        if node.target is _FUSED and _rank(node.args[0]) == 4:
            found.append(Attention(node.name, position, is_fused=True))
        # Written out: softmax(...) @ values, with nothing between them that mixes heads.
        elif node.target in _PRODUCTS and _rank(node.args[0]) == 4 and _is_softmax(node.args[0]):
            found.append(Attention(node.name, position, is_fused=False))
    return found


def weights_of(
    twin: Twin, state: Mapping[str, Tensor], batch: Any, attentions: Sequence[Attention]
) -> list[Tensor]:
    """The weights of each attention on one batch: shape [samples, heads, queries, keys]."""
    nodes = list(twin.program.graph.nodes)
    seen: dict[tuple[int, int], Tensor] = {}

    def watch(place: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        def look(value: Tensor) -> Tensor:
            seen[place] = value
            return value

        return look

    # Of a fused attention its queries, its keys and its mask, if it has one; otherwise the weights
    # themselves.
    places = [
        (attention.position, argument)
        for attention in attentions
        for argument in ((0, 1, 3) if attention.is_fused else (0,))
        if argument < len(nodes[attention.position].args)
        and isinstance(nodes[attention.position].args[argument], fx.Node)
    ]
    with torch.no_grad():
        twin.run(state, batch, {place: watch(place) for place in places})
    return [_weights(nodes[a.position], a, seen) for a in attentions]


def head_units(
    twin: Twin, anatomy: Anatomy, state: Mapping[str, Tensor], batch: Any, attentions: Sequence[Attention]
) -> list[IntArray]:
    """The unit of every head of each attention, -1 where a head is no unit alone: shape [heads] each.

    What is read of attention units is cut off from the rest of the graph, so that a head reaches the outputs
    of its own layer only; weighting these by 1, u and u^2 then tells u.
    """
    factors: dict[int, Tensor] = {}
    energies: dict[int, list[Tensor]] = {}

    def scale(attention: Attention) -> Callable[[Tensor], Tensor]:
        def read(value: Tensor) -> Tensor:
            # A factor of 1 for every head, [heads]: the derivative by it tells what the head reaches.
            factor = torch.ones(value.shape[_HEAD_AXIS], dtype=torch.float64, requires_grad=True)
            factors[attention.position] = factor
            return value * factor[:, None, None].to(value.dtype)

        return read

    def listen(reading: Reading) -> Callable[[Tensor], Tensor]:
        units = torch.from_numpy(reading.units)

        def read(value: Tensor) -> Tensor:
            for group in np.unique(anatomy.group_of[reading.units[reading.units >= 0]]).tolist():
                span = anatomy.unit_slice(group)
                is_own = (units >= span.start) & (units < span.stop)
                energy = torch.where(is_own, value.double().square(), 0.0)
                # `number` counts the units of the group from 1. Three sums over what is read: of the energy,
                # of energy x number, of energy x number^2.
                number = torch.where(is_own, units - span.start + 1, 0).double()
                powers = [(energy * number**power).sum() for power in range(3)]
                sums = energies.setdefault(group, [torch.zeros((), dtype=torch.float64)] * 3)
                energies[group] = [total + more for total, more in zip(sums, powers, strict=True)]
            # Cut off here: through this layer a head would reach those behind it.
            return value.detach()

        return read

    heads = [n for n, group in enumerate(anatomy.groups) if group.kind is Kind.HEAD]
    gates = {reading.place: listen(reading) for reading in readings_of(twin, anatomy, heads)}
    gates |= {(attention.position, attention.reached_by): scale(attention) for attention in attentions}
    twin.run(state, batch, gates)
    asked = [factors[attention.position] for attention in attentions]
    units = [np.full(factor.numel(), -1, np.int64) for factor in asked]
    for group, sums in energies.items():
        if not sums[0].requires_grad:
            continue
        # Derivatives of the three sums by the factors, [heads] for each attention. For a head that reaches
        # unit u alone they are as 1 : u : u^2.
        moments = [
            torch.autograd.grad(total, asked, retain_graph=True, allow_unused=True, materialize_grads=True)
            for total in sums
        ]
        for number, found in enumerate(units):
            own = _numbers(*(power[number].numpy() for power in moments))
            # A head that reaches units of two groups is no unit alone.
            is_double = (found >= 0) & (own >= 0)
            found[own >= 0] = own[own >= 0] + int(anatomy.offsets[group])
            found[is_double] = -1
    return units


def _numbers(zeroth: Any, first: Any, second: Any) -> IntArray:
    """Numbers within a group from their moments: one alone has no spread. -1 where it is not one."""
    # The number's mean and mean square, weighted by energy. Of one unit alone the mean is whole and its
    # square the mean square; a mixture has a spread.
    mean = np.divide(first, zeroth, out=np.zeros_like(first), where=zeroth > 0)
    square = np.divide(second, zeroth, out=np.zeros_like(second), where=zeroth > 0)
    nearest = np.rint(mean)
    is_alone = (np.abs(mean - nearest) < 0.01) & (np.abs(square - nearest**2) < 0.1) & (nearest >= 1)
    numbers: IntArray = np.where(is_alone, nearest - 1, -1).astype(np.int64)
    return numbers


def _weights(node: fx.Node, attention: Attention, seen: Mapping[tuple[int, int], Tensor]) -> Tensor:
    if not attention.is_fused:
        return seen[attention.position, 0]
    # Fused: softmax(q k^T x scale + mask), again from q and k of [samples, heads, queries or keys, width].
    q, k = (seen[attention.position, argument] for argument in (0, 1))
    if q.shape[_HEAD_AXIS] != k.shape[_HEAD_AXIS]:  # grouped queries
        k = k.repeat_interleave(q.shape[_HEAD_AXIS] // k.shape[_HEAD_AXIS], _HEAD_AXIS)
    scale = node.kwargs.get("scale") or (node.args[6] if len(node.args) > 6 else None)
    factor = float(scale) if isinstance(scale, (int, float)) else q.shape[-1] ** -0.5
    scores = (q @ k.transpose(-2, -1)).double() * factor
    is_causal = node.kwargs.get("is_causal", node.args[5] if len(node.args) > 5 else False)
    if is_causal:
        # Query i sees keys 0 to i, counted from the first key also where there are more keys than queries.
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~allowed, float("-inf"))
    mask = seen.get((attention.position, 3))
    if mask is not None:
        # A boolean mask says what is seen; any other one is added to the scores.
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def _rank(argument: Any) -> int:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return value.dim() if isinstance(value, Tensor) else 0


def _is_softmax(argument: Any) -> bool:
    while isinstance(argument, fx.Node) and argument.target in _PASSED:
        argument = argument.args[0]
    return isinstance(argument, fx.Node) and argument.target in _SOFTMAX
