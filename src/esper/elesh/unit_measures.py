"""What a forward and backward pass of the twin tells about every unit: the look that all analyses share.

The gradient of a gate of 1 on all that is read of a unit is activation x gradient, summed over positions and
over all places of reading: the slope of the loss in that unit. A gate per sample gives it sample by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from esper.anatomy import Anatomy, Kind
from esper.anatomy.twin import Twin
from esper.arrays import BoolArray, FloatArray
from esper.batches import divided, repeated, samples
from esper.elesh.readings import Reading, placed, readings_of
from esper.elesh.redundancy import ChannelMoments

MAX_WIDTH = 4096
"""Widest layer whose channels are compared with each other; their moments are a matrix of this size."""

_SAMPLES_APART = 4
"""Samples of a batch where a unit's samples cannot be told apart: their spread comes from many batches."""


@dataclass(frozen=True, eq=False)
class UnitMeasures:
    """What was measured of units; NaN where a unit is read nowhere.

    All slopes are those of single samples' losses in a factor on the unit, as if the loss of a batch were the
    mean over its samples. Where samples cannot be told apart the mean slopes of batches stand for them, and
    changes of opposite sign cancel within a batch.

    Attributes:
        taylor: mean size of the slopes, shape [units]; for a head this is the gradient of its gate.
        slope: mean of the slopes, shape [units].
        variance: variance of the slopes over samples, shape [units].
        samples: how many there were.
        activation_frequency: share of elements above the threshold in size, shape [units].
        is_per_sample: whether samples could be told apart, shape [units].
        rises: by part of the samples, the rise of its loss without each unit, to second order: shape [units,
            parts]. Other than `predicted` it follows these very samples, noise and all.
        moments: by group number, the second moments of its channels at every place where they are read;
            groups of which a reading cannot be arranged by channel are left out.
    """

    taylor: FloatArray
    slope: FloatArray
    variance: FloatArray
    samples: int
    activation_frequency: FloatArray
    is_per_sample: BoolArray
    rises: FloatArray
    moments: Mapping[int, tuple[ChannelMoments, ...]]

    def predicted(self) -> FloatArray:
        """The rise of the loss without each unit, to second order: curvature minus slope, shape [units].

        The mean square of the samples' slopes stands for the second derivative (empirical Fisher
        information). Half of it would be the second-order term; the whole ranks better, because removing a
        unit is no small step. The mean slope counts as far as it is known: shrunk to nothing where it lies
        within two standard errors of zero, which late in training it mostly does.
        """
        square = np.square(self.slope)
        error = self.variance / max(self.samples, 1)
        # Shrinkage of James and Stein's kind: the slope loses (2 x its standard error)^2 / slope^2 of
        # itself, at most all.
        ratio = np.divide(error, square, out=np.full(square.shape, np.inf), where=self.slope != 0)
        shrunk = self.slope * np.maximum(1.0 - 4.0 * ratio, 0.0)
        # `square + variance` is the mean square of the samples' slopes.
        rise: FloatArray = square + self.variance - np.where(np.isfinite(self.slope), shrunk, np.nan)
        return rise


def measure_units(
    twin: Twin,
    anatomy: Anatomy,
    state: Mapping[str, Tensor],
    batches: Sequence[Any],
    groups: Sequence[int] | None = None,
    *,
    threshold: float = 1e-3,
    with_frequency: bool = True,
    with_moments: bool = False,
    parts: Sequence[int] = (),
) -> UnitMeasures:
    """Measures all units of some groups, with one forward and one backward pass per batch.

    Args:
        twin: the network with its loss.
        anatomy: its units.
        state: its tensors, with what is masked already set to zero.
        batches: held-out batches that the twin can take.
        groups: group numbers; all if not given.
        threshold: an element above this in size is active (spec 003, "Multi-Level Importance Calculation").
        with_frequency: whether to count active elements.
        with_moments: whether to compare the channels of each group.
        parts: for `rises`, how many samples belong to each part, the first ones to the first.
    """
    chosen = range(len(anatomy.groups)) if groups is None else groups
    readings = readings_of(twin, anatomy, chosen)
    if batches:
        readings = placed(twin, state, batches[0], readings)
    # [units] each: read anywhere, and told apart sample by sample wherever it is read.
    is_read, told_apart = np.zeros(anatomy.num_units, np.bool_), np.ones(anatomy.num_units, np.bool_)
    for reading in readings:
        is_read[reading.units[reading.units >= 0]] = True
        if reading.batch_axis is None:
            told_apart[reading.units[reading.units >= 0]] = False
    # A batch gives those units one mean slope only. Smaller batches give more of them, and so a spread.
    if twin.is_divisible and not told_apart.all():
        batches = [part for batch in batches for part in divided(batch, _SAMPLES_APART)]
    watches = [
        _Watch(
            reading, _compared(anatomy, reading, chosen) if with_moments else {}, threshold, with_frequency
        )
        for reading in readings
    ]
    slopes = _Slopes(told_apart, parts)
    for batch in batches:
        slopes.add(twin, state, batch, watches)
    taylor, slope, variance = (np.where(is_read, each, np.nan) for each in slopes.statistics())
    return UnitMeasures(
        taylor=taylor,
        slope=slope,
        variance=variance,
        samples=slopes.samples,
        activation_frequency=_frequency(watches, anatomy.num_units),
        is_per_sample=told_apart,
        rises=np.where(is_read[:, None], slopes.rises(), np.nan),
        moments=_moments(watches, anatomy),
    )


class _Slopes:
    """Sums over batches of the units' slopes: their size, themselves, their squares, each [units]."""

    def __init__(self, told_apart: BoolArray, parts: Sequence[int]) -> None:
        self.samples = 0
        self._ends = np.cumsum(np.array(parts, np.int64))
        # Of every part: slopes and their squares.
        self._by_part = np.zeros((len(parts), 2, told_apart.size))
        self._told_apart = told_apart
        self._sums = np.zeros((3, told_apart.size))
        self._batches = 0
        self._is_sum = False

    def add(self, twin: Twin, state: Mapping[str, Tensor], batch: Any, watches: Sequence[_Watch]) -> None:
        """Runs one batch forward and backward through gates of 1."""
        # Two sets of gates: one row per sample, and one row for what has no axis of samples. Each has one
        # entry more than units, because -1 is "no unit".
        count, width = samples(batch), self._told_apart.size + 1
        device = next((leaf.device for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor)), None)
        by_sample = torch.ones(count, width, device=device, requires_grad=True)
        in_all = torch.ones(width, device=device, requires_grad=True)
        gates = {watch.reading.place: watch.gate(by_sample, in_all) for watch in watches}
        loss = twin.run(state, batch, gates)[0].reshape(())
        each, shared = torch.autograd.grad(
            loss, (by_sample, in_all), allow_unused=True, materialize_grads=True
        )
        if self._batches == 0:
            self._is_sum = _adds_up(twin, state, batch)
        scale = 1.0 / count if self._is_sum else 1.0
        # Slopes of single samples [samples, units], and of the mean over the batch [units].
        single = each[:, :-1].double() * (scale * count)
        mean = (each.sum(0) + shared)[:-1].double() * scale
        apart = torch.stack([single.abs().sum(0), single.sum(0), single.square().sum(0)])
        whole = torch.stack([mean.abs(), mean, mean.square()]) * count
        self._sums += np.where(self._told_apart, apart.cpu().numpy(), whole.cpu().numpy())
        if self._ends.size:
            self._add_to_parts(single, whole[1:])
        self.samples += count
        self._batches += 1

    def _add_to_parts(self, single: Tensor, whole: Tensor) -> None:
        """Adds slopes of samples [samples, units], and of their batch [2, units], to the parts' own."""
        # A batch that is not told apart belongs to the part of its first sample.
        numbers = np.searchsorted(self._ends, self.samples + np.arange(len(single)), side="right")
        alike = np.where(self._told_apart, 0.0, whole.cpu().numpy())
        if numbers[0] < self._ends.size:
            self._by_part[numbers[0]] += alike
        for number in np.unique(numbers[numbers < self._ends.size]):
            own = single[torch.from_numpy(numbers == number)]
            sums = torch.stack([own.sum(0), own.square().sum(0)]).cpu().numpy()
            self._by_part[number] += np.where(self._told_apart, sums, 0.0)

    def rises(self) -> FloatArray:
        """Of every part: the mean square of the slopes less their mean, shape [units, parts]."""
        slope, square = self._by_part[:, 0], self._by_part[:, 1]
        sizes = np.diff(self._ends, prepend=0)[:, None]
        # The loss of a batch is the mean over its samples, or their sum.
        rises: FloatArray = ((square - slope) / (1 if self._is_sum else np.maximum(sizes, 1))).T
        return rises

    def statistics(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean size, mean, and variance over samples of every unit's slopes; NaN without samples."""
        if not self.samples:
            unknown = np.full(self._told_apart.shape, np.nan)
            return unknown, unknown, unknown
        size, mean, square = self._sums / self.samples
        # A batch of n samples has a mean slope of 1/n of their variance, and was counted n times: either way
        # the sum of squares around the mean is (observations - 1) times the variance of one sample.
        observed = np.where(self._told_apart, self.samples, self._batches)
        around = np.maximum(square - np.square(mean), 0.0) * self.samples / np.maximum(observed - 1, 1)
        variance = np.where(observed > 1, around, square * self.samples)
        return size, mean, variance


def _adds_up(twin: Twin, state: Mapping[str, Tensor], batch: Any) -> bool:
    """Whether the loss of a batch is the sum over its samples, not their mean: twice the samples tell."""
    if not twin.is_divisible:
        return False
    few = divided(batch, 2)[0]
    with torch.no_grad():
        one, two = (float(twin.loss(state, part)[0]) for part in (few, repeated(few, 2 * samples(few))))
    # A sum doubles, a mean stays: the nearer one decides.
    return abs(two - 2 * one) < abs(two - one)


@dataclass(eq=False)
class _Watch:
    """What is seen at one reading, over all batches."""

    reading: Reading
    moments: dict[int, ChannelMoments]
    threshold: float
    counts: bool
    active: FloatArray = field(init=False)
    seen: float = 0.0

    def __post_init__(self) -> None:
        self.active = np.zeros(self.reading.units.shape)

    def gate(self, by_sample: Tensor, in_all: Tensor) -> Callable[[Tensor], Tensor]:
        """Multiplies what is read by its units' gates, and looks at it."""
        units, axis = torch.from_numpy(self.reading.units), self.reading.batch_axis

        def read(value: Tensor) -> Tensor:
            self._look(value.detach())
            if axis is None:
                return value * in_all[units].to(value.dtype)
            rows = self.reading.sample_of(value.shape[axis], len(by_sample))
            # [rows, units as read] becomes the shape of what is read: its axis of one unit is that of rows.
            factors = by_sample[rows][:, units].movedim(0, axis + 1).squeeze(axis)
            return value * factors.to(value.dtype)

        return read

    def _look(self, value: Tensor) -> None:
        if self.counts:
            self.active += _count_by(value.abs() > self.threshold, self.active.shape).cpu().numpy()
            # How many elements each entry of `active` stands for.
            self.seen += value.numel() / max(self.active.size, 1)
        if value.is_complex():
            self.moments.clear()  # folding scales by real numbers
        if self.moments:
            columns = self.reading.columns(value)
            for moments in self.moments.values():
                moments.add(columns)


def _count_by(is_true: Tensor, shape: tuple[int, ...]) -> Tensor:
    """How often it is true, for every entry of a tensor of `shape` that is broadcast to it: float64."""
    # Summed are the axes that the counts do not have, and those along which they have one entry.
    lead = is_true.dim() - len(shape)
    axes = [*range(lead), *(axis for axis, size in enumerate(shape, lead) if size == 1)]
    counts = is_true.sum(axes, dtype=torch.float64) if axes else is_true.double()
    return counts.reshape(shape)


def _frequency(watches: Sequence[_Watch], num_units: int) -> FloatArray:
    """Share of active elements over all places where a unit is read: [units]."""
    active, seen = np.zeros(num_units), np.zeros(num_units)
    for watch in watches:
        units = watch.reading.units
        np.add.at(active, units[units >= 0], watch.active[units >= 0])
        np.add.at(seen, units[units >= 0], watch.seen)
    share: FloatArray = np.divide(active, seen, out=np.full(num_units, np.nan), where=seen > 0)
    return share


def _moments(watches: Sequence[_Watch], anatomy: Anatomy) -> dict[int, tuple[ChannelMoments, ...]]:
    """The moments of every group that could be arranged by channel wherever it is read."""
    moments: dict[int, tuple[ChannelMoments, ...]] = {}
    readers = np.zeros(len(anatomy.groups), np.int64)
    for watch in watches:
        units = watch.reading.units
        readers[np.unique(anatomy.group_of[units[units >= 0]])] += 1
        for group, seen in watch.moments.items():
            moments[group] = (*moments.get(group, ()), seen)
    # One reading that cannot be arranged by channel leaves the whole group out.
    return {group: seen for group, seen in moments.items() if len(seen) == readers[group]}


def _compared(anatomy: Anatomy, reading: Reading, groups: Sequence[int]) -> dict[int, ChannelMoments]:
    """The groups whose channels can be compared at this reading."""
    moments = {}
    for group in groups:
        span, kind = anatomy.unit_slice(group), anatomy.groups[group].kind
        width = span.stop - span.start
        if kind is Kind.CHANNEL and 1 < width <= MAX_WIDTH:
            coordinates = reading.coordinates(span.start, width)
            if coordinates is not None:
                moments[group] = ChannelMoments(reading, coordinates)
    return moments
