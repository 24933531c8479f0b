"""Tier 2 for layers: what a residual block does to its stream, and what it would cost to leave it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from esper.anatomy import Anatomy
from esper.anatomy.cut import Block, Sum, blocks_of, sums, unread
from esper.anatomy.graph import Traced, is_in_place
from esper.anatomy.twin import Gates, Twin
from esper.arrays import FloatArray

_TINY = 1e-30


@dataclass(frozen=True, eq=False)
class BlockMeasures:
    """What was measured of one block, the f of `x + f(x)`.

    Attributes:
        block: which one; its name is the one by which it can be removed.
        similarity: mean cosine of `x` and `x + f(x)`, sample by sample, -1 to 1.
        gradient_flow: norm of the loss gradient at `x`, as a multiple of that at `x + f(x)`; NaN where the
            block writes into what it reads.
        taylor: mean size over samples of the first-order change of the loss when it is left out.
        rises: exact rise of the loss on every batch when it is left out; NaN if that was not asked for.
        is_same_size: whether `f(x)` has the shape of `x`; otherwise it is stretched to it as it is added.
    """

    block: Block
    similarity: float
    gradient_flow: float
    taylor: float
    rises: FloatArray
    is_same_size: bool = True

    @property
    def skip_potential(self) -> float:
        """How little the block changes on the way forth and back, 0 to 1; NaN where one is not measured.

        The cosine of what goes in and comes out (0 where they oppose), times the smaller gradient norm over
        the larger.
        """
        flow = self.gradient_flow
        return max(self.similarity, 0.0) * (min(flow, 1 / flow) if flow > 0 else flow)


def measure_blocks(
    twin: Twin, anatomy: Anatomy, state: Mapping[str, Tensor], batches: Sequence[Any], *, skip: bool = True
) -> list[BlockMeasures]:
    """Measures every residual block, in the order of the graph.

    Args:
        twin: the network with its loss.
        anatomy: its anatomy, which knows what a block costs.
        state: its tensors, with what is masked already set to zero.
        batches: held-out batches that the twin can take.
        skip: also measure the loss without each block: one more forward pass for each.
    """
    traced = Traced(twin.program, twin.names, twin.batch, True, twin.is_batch_dynamic)
    order = {node: position for position, node in enumerate(twin.program.graph.nodes)}
    places = [_Places.of(one, order) for one in sums(traced)]
    found = zip(places, blocks_of(traced, anatomy), strict=True)
    return [_measured(twin, state, batches, place, block, skip=skip) for place, block in found]


@dataclass(frozen=True)
class _Places:
    """Arguments of operators: (place in the graph, number of the argument).

    Attributes:
        stream: where the sum reads `x`.
        added: where it reads `f(x)`.
        reads: where f reads `x`; empty if that cannot be watched.
    """

    stream: tuple[int, int]
    added: tuple[int, int]
    reads: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, one: Sum, order: Mapping[fx.Node, int]) -> _Places:
        # What only f needs. Those of its operators that read `x` are its entrances.
        inside = set(unread(one.node.graph, [one]))
        users = [user for user in one.stream.users if user in inside]
        direct = [(order[user], n) for user in users for n, arg in enumerate(user.args) if arg is one.stream]
        # An `x` that stands in a list of tensors, or is written into, cannot be replaced as an argument.
        leaves = [leaf for user in users for leaf in pytree.tree_leaves((user.args, user.kwargs))]
        is_seen = len(direct) == sum(leaf is one.stream for leaf in leaves)
        is_safe = not any(is_in_place(user.target) for user in users)
        position = order[one.node]
        stream, added = (one.node.args.index(node) for node in (one.stream, one.added))
        return cls((position, stream), (position, added), tuple(direct) if is_seen and is_safe else ())


def _measured(
    twin: Twin,
    state: Mapping[str, Tensor],
    batches: Sequence[Any],
    places: _Places,
    block: Block,
    *,
    skip: bool,
) -> BlockMeasures:
    cosines, flows, changes, rises = [], [], [], []
    is_same_size = True
    for batch in batches:
        watch = _Watch(places)
        loss = twin.run(state, batch, watch.gates())[0].reshape(())
        # The gradient where the sum itself reads `x` is that of `x + f(x)`; together with those at the
        # entrances of f it is that of `x` before the block.
        made, *read = torch.autograd.grad(loss, watch.leaves, allow_unused=True, materialize_grads=True)
        into = sum(read, start=made)
        flows.append(float(into.norm() / made.norm().clamp_min(_TINY)) if places.reads else np.nan)
        before = watch.leaves[0].detach()
        is_same_size = is_same_size and watch.added.shape == before.shape
        # What the block adds, stretched to the stream's shape.
        change = watch.added.expand_as(before)
        cosines.append(float(torch.cosine_similarity(_rows(before), _rows(before + change), dim=1).mean()))
        # Change x gradient, one number per sample. The gradient of a mean loss has 1 / samples in it
        # already, so the sum of the sizes is their mean.
        changes.append(float(_rows(change * made).sum(1).abs().sum()))
        if skip:
            with torch.no_grad():
                without = twin.run(state, batch, {places.added: torch.zeros_like})[0]
            rises.append(float(without - loss.detach()))
    exact = np.array(rises or [np.nan] * len(batches), np.float64)
    return BlockMeasures(block, _mean(cosines), _mean(flows), _mean(changes), exact, is_same_size)


def _rows(value: Tensor) -> Tensor:
    """One row per sample."""
    return value.flatten(1) if value.dim() > 1 else value.reshape(-1, 1)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


class _Watch:
    """Holds on to what a sum adds while the graph runs, and to leaves in the place of what it adds to."""

    def __init__(self, places: _Places) -> None:
        self.added = torch.empty(0)
        self._leaves: dict[tuple[int, int], Tensor] = {}
        self._places = places

    @property
    def leaves(self) -> list[Tensor]:
        """What the sum reads, and then what its block reads: the same numbers, each with its own gradient."""
        return [self._leaves[place] for place in (self._places.stream, *self._places.reads)]

    def gates(self) -> Gates:
        watched = {place: self._leaf_at(place) for place in (self._places.stream, *self._places.reads)}
        return {**watched, self._places.added: self._take}

    def _leaf_at(self, place: tuple[int, int]) -> Any:
        def read(value: Tensor) -> Tensor:
            leaf = self._leaves[place] = value.detach().clone().requires_grad_()
            return leaf.clone()  # a sum may be written into its own operand, and a leaf may not

        return read

    def _take(self, value: Tensor) -> Tensor:
        self.added = value.detach().clone()
        return value
