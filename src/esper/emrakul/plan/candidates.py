"""Which finalists may go at all, and in which blocks: levels, evidence, floors and rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh import Evidence
from esper.emrakul.plan.plan import Rejection
from esper.emrakul.plan.situation import Ranking, Situation, alike
from esper.emrakul.schedule import Allowance
from esper.leyline import Level


@dataclass(frozen=True, eq=False)
class Bounds:
    """What a plan must respect.

    Attributes:
        floors: fewest units that every group may be left with, shape [groups].
        cycle_floors: the same, counting what one cycle may take from a group too, shape [groups].
        round_to: the multiple that every step leaves.
        target_fraction: share of the original cost that is gone at the end; None if there is no target.
        layers: how many whole layers may go.
        same_width: whether layers that are alike stay equally wide.
    """

    floors: IntArray
    cycle_floors: IntArray
    round_to: int
    target_fraction: float | None
    layers: int = 0
    same_width: bool = False


@dataclass(frozen=True, eq=False)
class Blocks:
    """Units that may go, in blocks that go together.

    Units are sorted by group and within a group by loss, so that a prefix of a group's blocks is always its
    cheapest part. Removing any such prefix respects floor and rounding.

    Attributes:
        units: all units, block after block, shape [candidates].
        starts: where each block begins in `units`, shape [blocks].
        sizes: units in each block, shape [blocks].
        group: group of each block, or the first of those that stay equally wide, shape [blocks].
        loss: predicted loss of each block (negative costs count as zero), shape [blocks].
        mean_loss: `loss` per unit, never falling within a group, shape [blocks].
        raw_loss: mean cost as it is, which breaks ties, never falling within a group, shape [blocks].
    """

    units: IntArray
    starts: IntArray
    sizes: IntArray
    group: IntArray
    loss: FloatArray
    mean_loss: FloatArray
    raw_loss: FloatArray

    @property
    def first_units(self) -> IntArray:
        """The first unit of every block: shape [blocks]."""
        return self.units[self.starts]


def kinds_allowed(anatomy: Anatomy, allowance: Allowance) -> BoolArray:
    """Units whose kind the allowance names: shape [units]."""
    per_group = np.array([group.kind.level in allowance.levels for group in anatomy.groups], np.bool_)
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
    # The floor rounded up, but never more than there is.
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
    steps[[group.kind.level is Level.HEAD for group in anatomy.groups]] = 1
    return steps


def candidate_blocks(
    situation: Situation,
    evidence: Evidence,
    finalists: IntArray,
    costs: FloatArray,
    allowance: Allowance,
    limits: Bounds,
    required_confidence: float,
    candidates: BoolArray | None = None,
) -> tuple[Blocks, dict[Rejection, IntArray]]:
    """Sorts finalists into blocks that may go, and those that stay with the reason.

    `costs` is what each unit of the network counts for, shape [units].
    """
    anatomy, kept = situation.anatomy, situation.counts
    rejected: dict[Rejection, IntArray] = {}

    def sift(rows: Ranking, passes: BoolArray, reason: Rejection) -> Ranking:
        if not passes.all():
            stays = rows.unit[~passes]
            rejected[reason] = np.sort(np.concatenate([rejected.get(reason, stays[:0]), stays]))
        return rows.where(passes)

    # What is known of every unit by itself. Losses order the rows of a group; unmeasured ones, which come
    # last, are the first to drop out.
    rows = Ranking.of(anatomy, finalists[situation.keep[finalists]], costs)
    rows = sift(rows, kinds_allowed(anatomy, allowance)[rows.unit], Rejection.LEVEL)
    if candidates is not None:
        rows = sift(rows, candidates[rows.unit], Rejection.THRESHOLD)
    rows = sift(rows, evidence.is_measured[rows.unit], Rejection.UNMEASURED)
    rows = sift(rows, evidence.confidence[rows.unit] >= required_confidence, Rejection.CONFIDENCE)
    rows = sift(rows, ~np.isin(rows.unit, evidence.leaders[rows.unit]), Rejection.LEADER)

    # What its group can spare: from here on rows are dropped from the end of a group only.
    rows = sift(rows, rows.place < (kept - limits.floors)[rows.group], Rejection.FLOOR)
    rows = sift(rows, rows.place < (kept - limits.cycle_floors)[rows.group], Rejection.LAYER_BUDGET)

    # Blocks: the first one brings the group to a multiple, each further one takes a whole step.
    step = step_sizes(anatomy, limits.round_to)
    first = np.where(kept % step == 0, step, kept % step)
    number = 1 + (rows.place - first[rows.group]) // step[rows.group]  # 0 where the place is before `first`
    end = first[rows.group] + number * step[rows.group]
    lowest = lowest_counts(anatomy, kept, limits.cycle_floors, limits.round_to)
    available = np.bincount(rows.group, minlength=len(anatomy.groups))
    is_whole = end <= np.minimum(available, kept - lowest)[rows.group]
    rows, number = sift(rows, is_whole, Rejection.ROUNDING), number[is_whole]
    if limits.same_width:
        in_all = _in_all(anatomy, rows, number)
        rows, number = sift(rows, in_all, Rejection.ROUNDING), number[in_all]
        rows, number = _together(anatomy, rows, number)
    return _blocks(rows, number, costs[rows.unit]), rejected


def _in_all(anatomy: Anatomy, rows: Ranking, number: IntArray) -> BoolArray:
    """Rows of blocks that every one of the groups that are alike has: shape [rows]."""
    blocks = np.zeros(len(anatomy.groups), np.int64)
    np.maximum.at(blocks, rows.group, number + 1)
    for groups in alike(anatomy):
        blocks[groups] = blocks[groups].min()
    in_all: BoolArray = number < blocks[rows.group]
    return in_all


def _together(anatomy: Anatomy, rows: Ranking, number: IntArray) -> tuple[Ranking, IntArray]:
    """The same rows with groups that are alike as one, called like the first; n-th blocks become one."""
    first = np.arange(len(anatomy.groups))
    for groups in alike(anatomy):
        first[groups] = groups[0]
    order = np.lexsort((rows.group, number, first[rows.group]))
    return Ranking(rows.unit[order], first[rows.group[order]]), number[order]


def _blocks(rows: Ranking, number: IntArray, raw: FloatArray) -> Blocks:
    """The blocks of a table of units.

    Args:
        rows: the units.
        number: number of each row's block within its group, shape [rows].
        raw: cost of each row, shape [rows].
    """
    is_start = np.ones(raw.size, np.bool_)
    is_start[1:] = (np.diff(rows.group) != 0) | (np.diff(number) != 0)
    starts = np.flatnonzero(is_start)
    sizes = np.diff(np.append(starts, raw.size))
    # Twice: with gains counted as no loss, and as measured.
    sums = [np.add.reduceat(values, starts) if raw.size else values for values in (np.maximum(raw, 0.0), raw)]
    group = rows.group[starts]
    mean_loss, raw_loss = (_rising(each / sizes, group) for each in sums)
    return Blocks(rows.unit, starts, sizes, group, sums[0], mean_loss, raw_loss)


def _rising(values: FloatArray, group: IntArray) -> FloatArray:
    """The running maximum within each group: means of equal numbers must not differ by rounding error."""
    # All groups in one pass: values become places in their order, shifted group by group so that no maximum
    # reaches into the next group. The remainder takes the shift back.
    ordered = np.sort(values)
    position = np.searchsorted(ordered, values)
    highest = np.maximum.accumulate(group * values.size + position) % max(values.size, 1)
    rising: FloatArray = ordered[highest]
    return rising
