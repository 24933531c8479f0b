"""What a group costs at several widths: units removed together, readers reconstructed, the loss measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from esper.anatomy.mend import INPUT_AXIS, Reader, elimination, readers_of, taken_over, watch
from esper.anatomy.twin import Ablation, Variants, averaged
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh.case import OpenCase
from esper.urabrask import evaluate, run_twin

_SHARES = (0.125, 0.25, 0.5, 1.0)
"""Where a curve is measured, as shares of what the group may lose."""

_MOST_BYTES = 256 << 20
"""Kept of what batches give before the layers that get narrower."""

State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Curve:
    """What a group costs, unit by unit.

    Attributes:
        units: units of the group, the first to go first, shape [units].
        counts: how many of them are gone at each point, shape [points].
        losses: rise of the loss there, shape [points].
    """

    units: IntArray
    counts: IntArray
    losses: FloatArray

    def per_unit(self) -> FloatArray:
        """What each unit adds, rising from one to the next, if only by a trace: shape [units].

        Where a later stretch is cheaper than an earlier one both count as their mean. From the first point on
        where the loss was no number all are NaN.
        """
        measured = int(np.isfinite(self.losses).cumprod().sum())
        counts, losses = self.counts[:measured], self.losses[:measured]
        # Units from one point to the next: [points].
        sizes = np.diff(counts, prepend=0).astype(np.float64)
        stretches: list[tuple[float, float]] = []
        for rise, size in zip(np.diff(losses, prepend=0.0), sizes, strict=True):
            whole = (float(rise), float(size))
            # Pool adjacent violators: as long as the stretch before is as steep, the two become one with a
            # common slope. Slopes are compared crosswise, without a division.
            while stretches and stretches[-1][0] * whole[1] >= whole[0] * stretches[-1][1]:
                before = stretches.pop()
                whole = (before[0] + whole[0], before[1] + whole[1])
            stretches.append(whole)
        slopes = [rise / size for rise, size in stretches]
        costs = np.repeat(np.array(slopes, np.float64), [int(size) for _, size in stretches])
        costs = np.append(costs, np.full(self.units.size - costs.size, np.nan))
        # Too small to count, and enough to keep units that cost the same in the order of the curve.
        step = max(float(np.nanmax(np.abs(costs), initial=0.0)), 1e-12) * 1e-9
        ordered: FloatArray = costs + step * np.arange(costs.size)
        return ordered


def variants(opened: OpenCase, batches: Sequence[Any], still: Collection[str] = ()) -> list[Variants]:
    """Batches that many masks are tried on, beginning with a layer where the masks do."""
    most = _MOST_BYTES // max(len(batches), 1)
    return [Variants(opened.twin, opened.state, batch, most, still) for batch in batches]


def counts_at(shares: Sequence[float], units: IntArray) -> IntArray:
    """How many of the units are gone at every point, those that differ: the last share is all of them."""
    counts: IntArray = np.unique(np.ceil(np.array(shares) * units.size).astype(np.int64))
    return counts


@dataclass(frozen=True, eq=False)
class Bench:
    """A network on which masks are tried; its tensors are never written to.

    Attributes:
        opened: twin, anatomy, tensors, and the units that are left.
        fitted: batches that reconstruction learns from.
        judged: other batches, by whose loss a mask is judged.
        reconstructs: whether layers that read what goes make up for it.
        groups: those from which something may go, for nothing else is watched; None: all.
        most_statistics: of how many of the fitted batches running statistics follow a mask; None: of all.
        still: running statistics that training does not move, by name: norms kept in eval mode.
    """

    opened: OpenCase
    fitted: tuple[Any, ...]
    judged: tuple[Any, ...]
    reconstructs: bool = True
    groups: Collection[int] | None = None
    most_statistics: int | None = None
    still: Collection[str] = ()

    def curve(self, group: int, removable: int) -> Curve:
        """What the group costs when up to `removable` of its units go; the rest of the network stays."""
        anatomy, keep = self.opened.anatomy, self.opened.keep
        # Who goes first: by what reconstruction cannot make up for, or by the loss of each alone where a
        # reader cannot be reconstructed.
        units = elimination(anatomy, group, self.opened.state, self.readers, keep, removable)
        if units is None:
            units = self._by_ablation(group)[:removable]
        counts = counts_at(_SHARES, units)
        losses = [self.loss(self.thinned(units[:count])) - self.base_loss for count in counts]
        return Curve(units, counts, np.array(losses))

    def thinned(self, gone: IntArray) -> State:
        """The tensors without these units, what reads them reconstructed."""
        left = self.opened.keep.copy()
        left[gone] = False
        return self.without(left)

    def without(self, after: BoolArray) -> State:
        """The tensors with only the units of `after` left, what reads the others reconstructed."""
        opened, state = self.opened, self.opened.masked_state(after)
        if self.reconstructs:
            changes = taken_over(opened.anatomy, opened.state, opened.keep, after, self.readers)
            state |= {name: state[name] + change for name, change in changes.items()}
        return self._renormed(state)

    def _renormed(self, state: State) -> State:
        """Running statistics moved as far as those of the fitting batches move, which are few."""
        twin, own = self.opened.twin, self.opened.state
        seen = [(batch.usual, batch.statistics(state)) for batch in self._varied]
        moved = {
            node: twin.statistics_of(own, node).moved(
                averaged([before[node] for before, _ in seen]), averaged([now[node] for _, now in seen])
            )
            for node in (seen[0][1] if seen else ())
        }
        return twin.with_statistics(state, moved)

    def loss(self, state: Mapping[str, Tensor]) -> float:
        """Mean loss of the judging samples."""
        return evaluate(run_twin(self.opened.twin, state), self.judged).loss

    @cached_property
    def _varied(self) -> Sequence[Variants]:
        """The batches that running statistics follow."""
        return variants(self.opened, self.fitted[: self.most_statistics], self.still)

    @cached_property
    def base_loss(self) -> float:
        return self.loss(self.opened.state)

    @cached_property
    def readers(self) -> Sequence[Reader]:
        """All layers that read units, watched on the fitting batches."""
        opened = self.opened
        weights = {
            member.tensor
            for number, group in enumerate(opened.anatomy.groups)
            if self.groups is None or number in self.groups
            for member in group.members
            if member.axis == INPUT_AXIS
        }
        # Without reconstruction nothing is watched, and every order is by ablation.
        layers = readers_of(opened.twin, opened.anatomy, weights if self.reconstructs else set())
        watch(opened.twin, opened.state, layers, self.fitted)
        return layers

    def _by_ablation(self, group: int) -> IntArray:
        """Units that are left in a group by what each costs alone: where no reader can be reconstructed."""
        opened = self.opened
        span = opened.anatomy.unit_slice(group)
        units: IntArray = np.flatnonzero(opened.keep[span]) + span.start
        ablation, losses = Ablation(opened.twin, opened.anatomy, units), np.zeros(units.size)
        for batch in self.judged:
            losses += ablation.losses(opened.state, batch)[1].double().numpy()
        return units[np.argsort(losses, kind="stable")]
