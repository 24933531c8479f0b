"""What a network takes in time at any widths, by a table that was measured operator by operator.

Linear maps and convolutions are timed at a grid of widths of their inputs and outputs; between its points the
table is linear, and it never says that a narrower layer is slower. The rest of a forward pass follows the
remaining work and the elements that are made, except for the part that no width changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray
from esper.cost.cost import CostModel
from esper.errors import EvidenceError

Matrix = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Axis:
    """One side of an operator: `fixed` coordinates, and so many per unit of every group that it carries."""

    fixed: float
    per_unit: Mapping[str, float]


@dataclass(frozen=True)
class TimedOperator:
    """One operator of the graph, timed at all combinations of widths.

    Attributes:
        node: its name in the graph.
        axes: what its outputs and its inputs are made of.
        widths: the widths of both that were timed, rising.
        milliseconds: the times, one row per width of the outputs.
    """

    node: str
    axes: tuple[Axis, Axis]
    widths: tuple[tuple[int, ...], tuple[int, ...]]
    milliseconds: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class LatencyTable:
    """Everything that was timed of one network; widths are given by the names of groups, so it outlives cuts.

    Attributes:
        operators: the operators that were timed alone.
        fixed_milliseconds: what a forward pass takes however narrow the network is.
        rest_milliseconds: what the rest takes at full width.
        rest_cost: work and elements of the rest at full width, in FLOPs.
        element_flops: what one element counts in that.
        batch: samples of one forward pass.
        device: where it was timed.
    """

    operators: tuple[TimedOperator, ...]
    fixed_milliseconds: float
    rest_milliseconds: float
    rest_cost: float
    element_flops: float
    batch: int
    device: str


class LatencyModel:
    """Milliseconds of one anatomy under any mask; used like a `CostModel`.

    Raises:
        EvidenceError: the table was measured on a network of other groups or operators.
    """

    def __init__(self, anatomy: Anatomy, table: LatencyTable) -> None:
        _require_same(anatomy, table)
        self._anatomy = anatomy
        self._fixed = table.fixed_milliseconds
        timed = frozenset(operator.node for operator in table.operators)
        self._rest = CostModel(anatomy, "flops", activation_flops=table.element_flops, without=timed)
        # Milliseconds for each FLOP of what was not timed alone.
        self._rest_scale = table.rest_milliseconds / table.rest_cost if table.rest_cost else 0.0
        number = {group.name: n for n, group in enumerate(anatomy.groups)}
        self._operators = [_Surface.of(operator, number) for operator in table.operators]

    def total(self, keep: BoolArray) -> float:
        """Milliseconds of what is left."""
        kept = self._kept(keep)
        timed = sum(surface.at(*surface.sizes(kept)) for surface in self._operators)
        return self._fixed + timed + self._rest_scale * self._rest.total(keep)

    def gradient(self, keep: BoolArray) -> FloatArray:
        """What removing each unit would save, by the slope down to the next narrower width: shape [units]."""
        kept = self._kept(keep)
        slope = np.zeros(len(self._anatomy.groups))
        for surface in self._operators:
            sizes = surface.sizes(kept)
            for axis in (0, 1):
                # Milliseconds per coordinate, times coordinates per unit: [groups].
                slope += surface.per_unit[axis] * surface.slope(sizes, axis)
        gained: FloatArray = slope[self._anatomy.group_of] + self._rest_scale * self._rest.gradient(keep)
        return gained

    def _kept(self, keep: BoolArray) -> FloatArray:
        groups = self._anatomy.group_of[keep]
        return np.bincount(groups, minlength=len(self._anatomy.groups)).astype(np.float64)


@dataclass(frozen=True, eq=False)
class _Surface:
    """The table of one operator, ready to be read: times never fall as a width grows."""

    fixed: tuple[float, float]
    per_unit: tuple[FloatArray, FloatArray]
    widths: tuple[FloatArray, FloatArray]
    times: Matrix

    @classmethod
    def of(cls, operator: TimedOperator, number: Mapping[str, int]) -> _Surface:
        owned = []
        for axis in operator.axes:
            counts = np.zeros(len(number))
            for name, each in axis.per_unit.items():
                counts[number[name]] = each
            owned.append(counts)
        # Narrower is never slower: where noise says so, a running maximum along both sides overrules it.
        rising = np.array(operator.milliseconds, np.float64)
        for axis_number in (0, 1):
            rising = np.maximum.accumulate(rising, axis=axis_number)
        widths = [np.array(row, np.float64) for row in operator.widths]
        fixed = [axis.fixed for axis in operator.axes]
        return cls(_pair(fixed), _pair(owned), _pair(widths), rising)

    def sizes(self, kept: FloatArray) -> tuple[float, float]:
        first, second = (f + float(u @ kept) for f, u in zip(self.fixed, self.per_unit, strict=True))
        return first, second

    def at(self, outputs: float, inputs: float) -> float:
        """Milliseconds at these widths; in proportion below the smallest that was timed."""
        # Linear between the points: along the inputs, [outputs], then along the outputs.
        rows = [np.interp(inputs, self.widths[1], row) for row in self.times]
        time = float(np.interp(outputs, self.widths[0], rows))
        for size, widths in zip((outputs, inputs), self.widths, strict=True):
            time *= min(size / widths[0], 1.0)
        return time

    def slope(self, sizes: tuple[float, float], axis: int) -> float:
        """Milliseconds per coordinate of `axis`, down to the next width that was timed."""
        # The next width below that was timed, or half of the present one.
        below = self.widths[axis][self.widths[axis] < sizes[axis]]
        lower = float(below[-1]) if below.size else sizes[axis] / 2
        there = list(sizes)
        there[axis] = lower
        width = sizes[axis] - lower
        return (self.at(*sizes) - self.at(*_pair(there))) / width if width > 0 else 0.0


def _require_same(anatomy: Anatomy, table: LatencyTable) -> None:
    groups = {group.name for group in anatomy.groups}
    nodes = {term.node for term in anatomy.terms}
    asked = {name for operator in table.operators for axis in operator.axes for name in axis.per_unit}
    odd = sorted(asked - groups) + sorted({operator.node for operator in table.operators} - nodes)
    if odd:
        raise EvidenceError(
            f"The latency table knows {odd[0]}, which this network does not have: it was measured on another "
            "one. Measure it again."
        )


def _pair(values: Sequence[T]) -> tuple[T, T]:
    first, second = values
    return first, second
