"""Tier 2 for channels and heads: what a forward and backward pass of the twin tells about every unit.

One pass per calibration batch gives the exact first-order change of the loss when a unit goes, sample by
sample; how often the unit is active; and which channels of a layer carry the same signal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.anatomy import Anatomy, Kind
from esper.anatomy.twin import Twin
from esper.arrays import BoolArray, FloatArray
from esper.batches import samples
from esper.elesh.readings import Reading, readings_of
from esper.elesh.redundancy import SecondMoments

MAX_WIDTH = 4096
"""Widest layer whose channels are compared with each other; their moments are a matrix of this size."""


@dataclass(frozen=True, eq=False)
class UnitMeasures:
    """What was measured of units; NaN where a unit is read nowhere.

    Attributes:
        taylor: mean over batches of the sum over samples of |first-order change of the loss without the
            unit|, shape [units]; for attention heads this is the gradient of the head's gate.
        activation_frequency: share of elements above the threshold in size, shape [units].
        is_per_sample: whether samples could be told apart; otherwise `taylor` is of whole batches, and
            changes of opposite sign cancel. Shape [units].
        moments: by group number, the second moments of its channels at every place where they are read;
            groups of which a reading cannot be arranged by channel are left out.
    """

    taylor: FloatArray
    activation_frequency: FloatArray
    is_per_sample: BoolArray
    moments: Mapping[int, tuple[SecondMoments, ...]]


def measure_units(
    twin: Twin,
    anatomy: Anatomy,
    state: Mapping[str, Tensor],
    batches: Sequence[Any],
    groups: Sequence[int],
    *,
    threshold: float,
) -> UnitMeasures:
    """Measures all units of some groups.

    Args:
        twin: the network with its loss.
        anatomy: its units.
        state: its tensors, with what is masked already set to zero.
        batches: held-out batches that the twin can take.
        groups: group numbers.
        threshold: an element above this in size is active.
    """
    readings = readings_of(twin, anatomy, groups)
    watches = [_Watch(reading, _compared(anatomy, reading, groups)) for reading in readings]
    total = np.zeros(anatomy.num_units)
    told_apart = np.ones(anatomy.num_units, np.bool_)
    for reading in readings:
        if reading.batch_axis is None:
            told_apart[reading.units[reading.units >= 0]] = False
    for batch in batches:
        total += _taylor(twin, state, batch, watches, told_apart, threshold)
    is_read = np.zeros(anatomy.num_units, np.bool_)
    active, seen = np.zeros(anatomy.num_units), np.zeros(anatomy.num_units)
    moments: dict[int, tuple[SecondMoments, ...]] = {}
    for watch in watches:
        units = watch.reading.units.ravel()
        known = units >= 0
        is_read[units[known]] = True
        np.add.at(active, units[known], watch.active[known])
        np.add.at(seen, units[known], watch.seen)
        for group, found in watch.moments.items():
            moments[group] = (*moments.get(group, ()), found)
    readers = np.zeros(len(anatomy.groups), np.int64)
    for reading in readings:
        readers[np.unique(anatomy.group_of[reading.units[reading.units >= 0]])] += 1
    return UnitMeasures(
        np.where(is_read, total / max(len(batches), 1), np.nan),
        np.divide(active, seen, out=np.full(active.shape, np.nan), where=seen > 0),
        told_apart,
        {group: found for group, found in moments.items() if len(found) == readers[group]},
    )


@dataclass(eq=False)
class _Watch:
    """What is seen at one reading, over all batches."""

    reading: Reading
    moments: dict[int, SecondMoments]
    active: FloatArray = field(init=False)
    seen: float = 0.0

    def __post_init__(self) -> None:
        self.active = np.zeros(self.reading.units.size)

    def look(self, value: Tensor, threshold: float) -> None:
        columns = self.reading.columns(value)
        self.active += (columns.abs() > threshold).sum(0).double().cpu().numpy()
        self.seen += columns.shape[0]
        for found in self.moments.values():
            found.add(columns)


def _compared(anatomy: Anatomy, reading: Reading, groups: Sequence[int]) -> dict[int, SecondMoments]:
    """The groups whose channels can be compared at this reading."""
    found = {}
    for group in groups:
        span, kind = anatomy.unit_slice(group), anatomy.groups[group].kind
        width = span.stop - span.start
        if kind is Kind.CHANNEL and 1 < width <= MAX_WIDTH:
            coordinates = reading.coordinates(span.start, width)
            if coordinates is not None:
                found[group] = SecondMoments(reading, coordinates)
    return found


def _taylor(
    twin: Twin,
    state: Mapping[str, Tensor],
    batch: Any,
    watches: Sequence[_Watch],
    told_apart: BoolArray,
    threshold: float,
) -> FloatArray:
    """Sum over samples of |dL/dgate| of every unit, for gates of 1 on all that is read: shape [units].

    The gradient of a gate is activation x gradient, summed over positions and over all places of reading.
    """
    num_units = told_apart.size  # one more entry than units: -1 is "no unit"
    by_sample = torch.ones(samples(batch), num_units + 1, requires_grad=True)
    in_all = torch.ones(num_units + 1, requires_grad=True)

    def gate(watch: _Watch) -> Callable[[Tensor], Tensor]:
        units, axis = torch.from_numpy(watch.reading.units), watch.reading.batch_axis

        def read(value: Tensor) -> Tensor:
            watch.look(value.detach(), threshold)
            if axis is None:
                return value * in_all[units].to(value.dtype)
            return value * by_sample[:, units].movedim(0, axis + 1).squeeze(axis).to(value.dtype)

        return read

    loss = twin.run(state, batch, {watch.reading.place: gate(watch) for watch in watches})[0]
    gates = (by_sample, in_all)
    each, shared = torch.autograd.grad(loss.reshape(()), gates, allow_unused=True, materialize_grads=True)
    alone, together = each.abs().sum(0), (each.sum(0) + shared).abs()
    found: FloatArray = np.where(told_apart, alone[:-1].double().numpy(), together[:-1].double().numpy())
    return np.where(np.isfinite(found), found, np.nan)
