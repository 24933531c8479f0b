"""Where units are read in a twin, and what is read there arranged as one column per unit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx

from esper.anatomy import Anatomy
from esper.anatomy.labels import operands_of
from esper.anatomy.twin import Twin
from esper.arrays import IntArray
from esper.batches import picked, samples

Order = Literal["together", "in turn", "unknown"]
_FEW = 3
"""Samples among which one is exchanged: enough for rows that lie together to differ from rows in turn."""


@dataclass(frozen=True, eq=False)
class Reading:
    """One argument of one operator that reads units.

    Attributes:
        position: the operator's place in the graph.
        argument: which of its arguments.
        units: the unit of every element, -1 for none; rank of the argument, 1 along axes that do not matter.
        batch_axis: the axis of samples; None where samples cannot be told apart.
        order: whether a sample's rows along that axis lie together, or in turn with those of the others, or
            whether that is unknown: `placed` finds out. An axis that holds one row per sample is "together".
    """

    position: int
    argument: int
    units: IntArray
    batch_axis: int | None
    order: Order = "together"

    def sample_of(self, size: int, samples: int) -> Tensor:
        """The sample of each of the `size` rows along the batch axis: int64 [size]."""
        rows = torch.arange(size)
        return rows // (size // samples) if self.order == "together" else rows % samples

    @property
    def place(self) -> tuple[int, int]:
        return self.position, self.argument

    def columns(self, value: Tensor) -> Tensor:
        """The argument with one column per element of `units`: shape [everything else, units.size]."""
        # Axes along which units differ become the columns, all others the rows.
        axes = self._axes(value)
        return value.movedim(axes, [*range(-len(axes), 0)]).reshape(-1, self.units.size)

    def from_columns(self, columns: Tensor, like: Tensor) -> Tensor:
        """The inverse of `columns`."""
        axes = self._axes(like)
        moved = like.movedim(axes, [*range(-len(axes), 0)])
        return columns.reshape(moved.shape).movedim([*range(-len(axes), 0)], axes)

    def coordinates(self, first: int, width: int) -> IntArray | None:
        """The columns of units `first` and following: shape [width, columns of each].

        None where the units have different numbers of columns, as where some of them live on elsewhere.
        """
        flat = self.units.ravel()
        # The columns of these units, and how many each unit has.
        mine = np.flatnonzero((flat >= first) & (flat < first + width))
        owner = flat[mine] - first
        each = np.bincount(owner, minlength=width)
        if not width or each.min() == 0 or (each != each[0]).any():
            return None
        # Stable: the columns of every unit keep their order, so those of two units correspond.
        return mine[np.argsort(owner, kind="stable")].reshape(width, -1)

    def _axes(self, value: Tensor) -> list[int]:
        """The axes along which units differ, counted from the front."""
        return [axis for axis in range(value.dim()) if self.units.shape[axis] > 1] or [value.dim() - 1]


def readings_of(twin: Twin, anatomy: Anatomy, groups: Collection[int]) -> list[Reading]:
    """Every place where units of these groups are read."""
    nodes = list(twin.program.graph.nodes)
    wanted = np.zeros(len(anatomy.groups), np.bool_)
    wanted[list(groups)] = True
    readings = []
    for gate in anatomy.gates:
        # -1 is no unit; unit 0 stands in for it where the group is looked up.
        is_asked = (gate.units >= 0) & wanted[anatomy.group_of[np.maximum(gate.units, 0)]]
        if is_asked.any():
            position = twin.positions[gate.node]
            units = np.where(is_asked, gate.units, -1)
            axis, rows = _batch_axis(twin, nodes[position], gate.argument)
            # Where the axis of samples is also one of units, samples cannot be told apart.
            is_free = axis is not None and units.shape[axis] == 1
            order: Order = "together" if rows == 1 else "unknown"
            readings.append(Reading(position, gate.argument, units, axis if is_free else None, order))
    return readings


def placed(twin: Twin, state: Mapping[str, Tensor], batch: Any, readings: Sequence[Reading]) -> list[Reading]:
    """The readings with the order of their samples, where several rows of a sample lie along the batch axis.

    The first of three samples is exchanged for another, and the rows that change are its own. A reading where
    that does not tell loses its batch axis.
    """
    unknown = [reading.place for reading in readings if reading.order == "unknown"]
    if not unknown:
        return list(readings)
    # Two runs on three samples, 0 1 2 and 1 1 2: they differ in the first alone.
    few, runs = [n % samples(batch) for n in range(_FEW)], []
    for numbers in (few, [few[1], *few[1:]]):
        values: dict[tuple[int, int], Tensor] = {}

        def keep(place: tuple[int, int], value: Tensor, kept: dict[Any, Tensor] = values) -> Tensor:
            kept[place] = value
            return value

        with torch.no_grad():
            twin.run(state, picked(batch, numbers), {place: partial(keep, place) for place in unknown})
        runs.append(values)
    return [
        _in_order(reading, *(values[reading.place] for values in runs))
        if reading.place in unknown
        else reading
        for reading in readings
    ]


def _in_order(reading: Reading, before: Tensor, after: Tensor) -> Reading:
    """The reading with its order, by which rows differ after the first of few samples was exchanged."""
    axis = reading.batch_axis
    if axis is not None:
        # [rows]: the rows along the batch axis that change with the first sample.
        differs = (before != after).movedim(axis, 0).flatten(1).any(1)
        rows = torch.arange(len(differs))
        # Rows that lie together change in the first third; in turn, every third one does. A change elsewhere
        # rules an order out; where both fit, or none, it stays unknown.
        owns: dict[Order, Tensor] = {"together": rows < len(rows) // _FEW, "in turn": rows % _FEW == 0}
        fitting = [order for order, own in owns.items() if not bool((differs & ~own).any())]
        if len(fitting) == 1:
            return replace(reading, order=fitting[0])
    return replace(reading, batch_axis=None)


def _batch_axis(twin: Twin, node: fx.Node, argument: int) -> tuple[int | None, int]:
    """The axis that grows with the batch, and its rows for each sample; None if there is not exactly one."""
    operands = operands_of(node.target, node.args)
    read = operands[argument] if argument < len(operands) else None
    value = read.meta.get("val") if isinstance(read, fx.Node) else None
    symbols = _batch_symbols(twin)
    if not isinstance(value, Tensor) or not twin.is_batch_dynamic:  # first axes may be of anything then
        return None, 1
    # One size of samples, which is a whole multiple of the batch's: anything else cannot be taken apart.
    open_axes = [axis for axis, size in enumerate(value.shape) if not symbols.isdisjoint(_symbols(size))]
    if len(open_axes) != 1:
        return None, 1
    size: Any = value.shape[open_axes[0]]
    rows, symbol = size.node.expr.as_coeff_Mul()
    is_known = str(symbol) in symbols and rows.is_Integer
    return (open_axes[0], int(rows)) if is_known else (None, 1)


def _batch_symbols(twin: Twin) -> set[str]:
    """What the graph calls the first size of its inputs."""
    placeholders = [node for node in twin.program.graph.nodes if node.op == "placeholder"]
    values = [node.meta.get("val") for node in placeholders if node.name not in twin.names]
    first = [value.shape[0] for value in values if isinstance(value, Tensor) and value.dim()]
    return {symbol for size in first for symbol in _symbols(size)}


def _symbols(size: int | torch.SymInt) -> set[str]:
    return (
        {str(symbol) for symbol in size.node.expr.free_symbols} if isinstance(size, torch.SymInt) else set()
    )
