"""Which finalists may go at all, and in which blocks: levels, evidence, floors and rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from esper.anatomy import Anatomy, Kind
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh import Evidence
from esper.emrakul.plan.plan import Rejection
from esper.emrakul.schedule import Allowance


@dataclass(frozen=True, eq=False)
class Bounds:
    """What a plan must respect.

    Attributes:
        floors: fewest units that every group may be left with, shape [groups].
        cycle_floors: the same, counting what one cycle may take from a group too, shape [groups].
        round_to: the multiple that every step leaves.
        target_fraction: share of the original cost that is gone at the end; None if there is no target.
        layers: how many whole layers may go.
    """

    floors: IntArray
    cycle_floors: IntArray
    round_to: int
    target_fraction: float | None
    layers: int = 0


@dataclass(frozen=True, eq=False)
class Blocks:
    """Units that may go, in blocks that go together.

    Units are sorted by group and within a group by loss, so that a prefix of a group's blocks is always its
    cheapest part. Removing any such prefix respects floor and rounding.

    Attributes:
        units: all units, block after block, shape [candidates].
        starts: where each block begins in `units`, shape [blocks].
        sizes: units in each block, shape [blocks].
        group: group of each block, shape [blocks].
        loss: predicted loss of each block (negative increases count as zero), shape [blocks].
        mean_loss: `loss` per unit, never falling within a group, shape [blocks].
        raw_loss: mean measured increase, which breaks ties, never falling within a group, shape [blocks].
    """

    units: IntArray
    starts: IntArray
    sizes: IntArray
    group: IntArray
    loss: FloatArray
    mean_loss: FloatArray
    raw_loss: FloatArray


def kinds_allowed(anatomy: Anatomy, allowance: Allowance) -> BoolArray:
    """Units whose kind the allowance names: shape [units]."""
    names = {level.value for level in allowance.levels}
    per_group = np.array([group.kind.level in names for group in anatomy.groups], np.bool_)
    return per_group[anatomy.group_of]


def lowest_counts(anatomy: Anatomy, kept: IntArray, floors: IntArray, round_to: int) -> IntArray:
    """Fewest units that every group may be left with: at the floor or above, and a multiple of `round_to`.

    Heads are not rounded; a group that has no such count below what it has keeps everything.

    Args:
        anatomy: the network.
        kept: units that each group has, shape [groups].
        floors: fewest that it may have, shape [groups].
        round_to: the multiple.
    """
    step = step_sizes(anatomy, round_to)
    lowest: IntArray = np.minimum(-(-floors // step) * step, kept)
    return lowest


def step_sizes(anatomy: Anatomy, round_to: int) -> IntArray:
    """The multiple that every group is left with: shape [groups].

    That is `round_to`, or its half, quarter and so on in a group that has fewer than twice as many units, so
    that narrow layers do not have to stay whole.
    """
    steps = np.full(len(anatomy.groups), round_to, np.int64)
    widths = np.array([group.width for group in anatomy.groups], np.int64)
    while (too_large := (steps > 1) & (2 * steps > widths)).any():
        steps[too_large] //= 2
    steps[[group.kind.level == Kind.HEAD for group in anatomy.groups]] = 1
    return steps


def candidate_blocks(
    anatomy: Anatomy,
    keep: BoolArray,
    evidence: Evidence,
    finalists: IntArray,
    allowance: Allowance,
    limits: Bounds,
    required_confidence: float,
    may_go: BoolArray | None = None,
) -> tuple[Blocks, dict[Rejection, IntArray]]:
    """Sorts finalists into blocks that may go, and those that stay with the reason."""
    rejected: dict[Rejection, IntArray] = {}

    def sift(units: IntArray, passes: BoolArray, reason: Rejection) -> IntArray:
        if not passes.all():
            rejected[reason] = np.sort(np.concatenate([rejected.get(reason, units[:0]), units[~passes]]))
        return units[passes]

    units = finalists[keep[finalists]]
    units = sift(units, kinds_allowed(anatomy, allowance)[units], Rejection.LEVEL)
    if may_go is not None:
        units = sift(units, may_go[units], Rejection.THRESHOLD)
    units = sift(units, evidence.is_measured[units], Rejection.UNMEASURED)
    units = sift(units, evidence.confidence[units] >= required_confidence, Rejection.CONFIDENCE)
    units = sift(units, ~np.isin(units, evidence.leaders[units]), Rejection.LEADER)

    group = anatomy.group_of[units]
    order = np.lexsort((units, evidence.loss_increase[units], group))
    units, group = units[order], group[order]
    first = np.searchsorted(group, np.arange(len(anatomy.groups)))
    rank = np.arange(units.size) - first[group]

    kept = np.bincount(anatomy.group_of[keep], minlength=len(anatomy.groups)).astype(np.int64)
    for least, reason in ((limits.floors, Rejection.FLOOR), (limits.cycle_floors, Rejection.LAYER_BUDGET)):
        is_above = rank < (kept - least)[group]
        units, group, rank = sift(units, is_above, reason), group[is_above], rank[is_above]

    step = step_sizes(anatomy, limits.round_to)
    head = np.where(kept % step == 0, step, kept % step)  # the first block brings the group to a multiple
    number = np.where(rank < head[group], 0, 1 + (rank - head[group]) // step[group])
    end = head[group] + number * step[group]
    available = np.bincount(group, minlength=len(anatomy.groups))
    lowest = lowest_counts(anatomy, kept, limits.cycle_floors, limits.round_to)
    removable = np.minimum(available, kept - lowest)
    whole = end <= removable[group]
    units, group, number = sift(units, whole, Rejection.ROUNDING), group[whole], number[whole]
    return _blocks(units, group, number, evidence.loss_increase), rejected


def _blocks(units: IntArray, group: IntArray, number: IntArray, loss_increase: FloatArray) -> Blocks:
    is_start = np.ones(units.size, np.bool_)
    is_start[1:] = (np.diff(group) != 0) | (np.diff(number) != 0)
    starts = np.flatnonzero(is_start)
    sizes = np.diff(np.append(starts, units.size))
    raw = loss_increase[units]
    loss, mean_raw = (
        np.add.reduceat(values, starts) if units.size else values for values in (np.maximum(raw, 0.0), raw)
    )
    per_group = group[starts]
    return Blocks(
        units,
        starts,
        sizes,
        per_group,
        loss,
        _rising(loss / sizes, per_group),
        _rising(mean_raw / sizes, per_group),
    )


def _rising(values: FloatArray, group: IntArray) -> FloatArray:
    """The running maximum within each group: means of equal numbers must not differ by rounding error."""
    ordered = np.sort(values)
    position = np.searchsorted(ordered, values)
    highest = np.maximum.accumulate(group * values.size + position) % max(values.size, 1)
    rising: FloatArray = ordered[highest]
    return rising
