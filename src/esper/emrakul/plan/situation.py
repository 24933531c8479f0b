"""What decisions are made about: a network, the units that are left of it, and what it was when uncut."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.cost import CostName, Costs, Origin


@dataclass(frozen=True, eq=False)
class Situation:
    """The network of one moment.

    Attributes:
        anatomy: the network as it is now, cuts included, masks not.
        keep: units that are left, shape [units].
        origin: the uncut network, to which shares and floors refer.
        may_go: units that the network's code lets go at all, shape [units]; None: all of them.

    Raises:
        MaskError: `keep` does not fit the network.
    """

    anatomy: Anatomy
    keep: BoolArray
    origin: Origin
    may_go: BoolArray | None = None

    def __post_init__(self) -> None:
        self.anatomy.check_mask(self.keep)

    @classmethod
    def whole(cls, anatomy: Anatomy, origin: Origin | None = None) -> Situation:
        """A network of which nothing is masked; without `origin` nothing was cut either."""
        return cls(anatomy, np.ones(anatomy.num_units, np.bool_), origin or Origin.of(anatomy))

    def under(self, keep: BoolArray) -> Situation:
        """The same network with other units left: shape [units]."""
        return replace(self, keep=keep)

    @cached_property
    def counts(self) -> IntArray:
        """Units left in every group: shape [groups]."""
        return self.anatomy.counts(self.keep)

    @cached_property
    def widths(self) -> IntArray:
        """Units that every group had in the uncut network: shape [groups]."""
        widths = [self.origin.widths.get(group.name, group.width) for group in self.anatomy.groups]
        return np.array(widths, np.int64)

    def model(self, cost: CostName, *, activation_flops: float = 0.0) -> Costs:
        """What this network costs under any mask."""
        return self.origin.model(self.anatomy, cost, activation_flops=activation_flops)

    def removed_fraction(self, cost: CostName) -> float:
        """Share of the original cost that is gone."""
        return self.origin.removed_fraction(self.anatomy, self.keep, cost)


def alike(anatomy: Anatomy) -> list[list[int]]:
    """Groups by likeness: the same width, and names that differ in numbers only (`layers.3.mlp`)."""
    classes: dict[tuple[str, str, int], list[int]] = {}
    for number, group in enumerate(anatomy.groups):
        # A number between dots stands for any other.
        key = (re.sub(r"(?<![^.])\d+(?![^.])", "*", group.name), group.kind.value, group.width)
        classes.setdefault(key, []).append(number)
    return list(classes.values())


@dataclass(frozen=True, eq=False)
class Ranking:
    """A table of units, one row each: by group, and within a group from the least important on.

    Rows are only ever dropped from the end of a group, or all places are meant to close up: `place` counts
    the rows that are there.

    Attributes:
        unit: number of the unit, shape [rows].
        group: number of its group, never falling, shape [rows].
    """

    unit: IntArray
    group: IntArray

    @classmethod
    def of(cls, anatomy: Anatomy, units: IntArray, scores: FloatArray | None = None) -> Ranking:
        """Ranks units by their score, and equal ones by their number; without scores by their number alone.

        Args:
            anatomy: the network.
            units: numbers of the units, shape [rows].
            scores: of all units of the network, NaN last, shape [units].
        """
        group = anatomy.group_of[units]
        within = units if scores is None else scores[units]
        # The last key counts first: group, then score, then number.
        order = np.lexsort((units, within, group))
        return cls(units[order], group[order])

    @cached_property
    def place(self) -> IntArray:
        """How many rows of the same group come before each: shape [rows]."""
        # A group's own number would be inserted at its first row.
        place: IntArray = np.arange(self.unit.size) - np.searchsorted(self.group, self.group)
        return place

    def where(self, rows: BoolArray) -> Ranking:
        """The rows that are marked True: shape [rows]."""
        return Ranking(self.unit[rows], self.group[rows])
