"""Which finalists are ablated on which batches, and what is known of them on the others.

Slopes and curvature of the loss predict what a batch's loss rises by without a unit. What they leave unsaid
hardly differs from batch to batch, so a few batches tell it (a control variate): ablation on a quarter of the
batches then says what ablation on all of them would. More are spent on the units that are too close to the
line between what may go and what stays.

Where there is no time to ablate all of them, a few of every layer are ablated on one batch: they tell on
which scale the predictions of that layer are (a ratio estimate), and the others are told by these.

Source: Owen (2013), "Monte Carlo theory, methods and examples", 8.9 "Control variates".
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from esper.arrays import BoolArray, FloatArray, IntArray

LINE = 0.6
"""Quantile of the finalists' rises above which none may go. They are two to three times what a plan takes,
so it lies above the plan's own boundary."""

_FEWEST = 4
"""Batches on which every finalist is ablated, if there are as many."""
_SHARE = 0.25
_ERRORS = 3.0
"""Standard errors (of few batches) that a unit has to be away from the line."""

_PROBES = (2, 16, 64)
"""Units of every group that tell the scale of predictions; the fewest and the most of a network."""


class Part(StrEnum):
    """Some of the calibration batches."""

    ONE = "one"
    """The first: enough for a scale, where predictions are of the same samples."""
    FIRST = "first"
    """Those on which finalists are ablated, spread evenly."""
    OTHERS = "others"
    """All that are not among those."""

    def of(self, count: int) -> IntArray:
        """Numbers of the batches, of `count`."""
        few = min(count, max(_FEWEST, int(np.ceil(_SHARE * count))))
        first = np.unique(np.linspace(0, count - 1, few).round().astype(np.int64))
        if self is Part.OTHERS:
            return np.setdiff1d(np.arange(count), first)
        return first[:1] if self is Part.ONE else first


def probes(groups: IntArray, predicted: FloatArray) -> IntArray:
    """Which finalists tell the scale of predictions: those in the middle of every group first.

    Args:
        groups: of the finalists, shape [units].
        predicted: their predicted rises, shape [units]; one without a prediction is no probe.

    Returns:
        Places among the finalists, in the order in which they are worth ablating.
    """
    each, fewest, most = _PROBES
    places = np.flatnonzero(np.isfinite(predicted))
    order = places[np.lexsort((predicted[places], groups[places]))]
    _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    wanted = min(max(each * sizes.size, fewest), most, order.size)
    # The way from the middle of a group outwards, in shares of its size: 1/2, 1/4, 3/4, 1/8 and so on. All
    # groups have their first one before any has its second.
    chosen: list[int] = []
    for share in _halves():
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
            place = int(order[start + int(share * size)])
            if place not in chosen:
                chosen.append(place)
            if len(chosen) >= wanted:
                return np.array(chosen, np.int64)
    return np.array(chosen, np.int64)


def _halves() -> Iterator[float]:
    """1/2, 1/4, 3/4, 1/8, 3/8 and so on, for as long as floats can tell them apart."""
    for depth in range(1, 24):
        yield from (number / 2**depth for number in range(1, 2**depth, 2))


def told(rises: FloatArray, measured: BoolArray, predicted: FloatArray, groups: IntArray) -> FloatArray:
    """Rises as they are predicted, on the scale of those that were measured in the same group.

    Of a group with few measured units the scale is drawn to that of all; without any it is that of all.

    Args:
        rises: measured rises of the loss, shape [units, batches]; only where `measured`.
        measured: shape [units, batches].
        predicted: predicted rises, shape [units, batches]; NaN where nothing is predicted.
        groups: of the units, shape [units].

    Returns:
        The predictions to scale, shape [units, batches]: on a batch that was not looked at, the mean over the
        others; NaN for a unit of which nothing is predicted.
    """
    both = measured & np.isfinite(rises) & np.isfinite(predicted)
    # Sums over the measured cells of each unit, then of each group: [groups]. The same samples stand behind
    # both, so that hard ones count on both sides of the ratio.
    _, group = np.unique(groups, return_inverse=True)
    rise = np.bincount(group, np.where(both, rises, 0.0).sum(axis=1))
    size = np.bincount(group, np.where(both, np.maximum(predicted, 0.0), 0.0).sum(axis=1))
    count = np.bincount(group, both.any(axis=1))
    whole = max(rise.sum() / size.sum(), 0.0) if size.sum() > 0 else 1.0
    # As if one more unit of a group, as large as its mean one, had been measured to be on the common scale.
    one = size / np.maximum(count, 1)
    scale = np.divide(rise + whole * one, size + one, out=np.full(size.size, whole), where=size > 0)
    known = np.isfinite(predicted)
    mean = np.where(known, predicted, 0.0).sum(axis=1) / np.where(
        known.any(axis=1), known.sum(axis=1), np.nan
    )
    table: FloatArray = np.maximum(scale, 0.0)[group][:, None] * np.where(known, predicted, mean[:, None])
    return table


def completed(rises: FloatArray, measured: BoolArray, predicted: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rises on all batches, from those on some and what is predicted of each.

    Args:
        rises: measured rises of the loss, shape [units, batches]; only where `measured`.
        measured: shape [units, batches].
        predicted: predicted rises, shape [units, batches]; NaN where nothing is predicted.

    Returns:
        The table without gaps, and the standard error of each unit's mean as one of what would be measured on
        all batches: [units, batches], [units]. NaN where no number was measured on some batch.
    """
    count, whole = measured.sum(axis=1), measured.shape[1]
    known = np.where(np.isfinite(predicted), predicted, 0.0)

    def around_mean(values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means over the measured batches, [units, 1], and what is left of the values there."""
        mean = np.where(measured, values, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)[:, None]
        return mean, np.where(measured, values - mean, 0.0)

    mean, spread = around_mean(rises)
    predicted_mean, predicted_spread = around_mean(known)
    # By how much a rise follows its prediction from batch to batch: least squares, between not at all and
    # fully.
    square = np.square(predicted_spread).sum(axis=1)
    slope = np.divide(
        (spread * predicted_spread).sum(axis=1), square, out=np.zeros(square.size), where=square > 0
    )
    slope = np.clip(slope, 0.0, 1.0)[:, None]
    table = np.where(measured, rises, mean + slope * (known - predicted_mean))
    # What prediction leaves unsaid, with two numbers fitted; none of it counts where all is measured.
    variance = np.square(spread - slope * predicted_spread).sum(axis=1) / np.maximum(count - 2, 1)
    error = np.sqrt(variance / np.maximum(count, 1) * (1.0 - count / max(whole, 1)))
    error[(count < 3) & (count < whole)] = np.inf
    return table, error


def close_ones(kinds: NDArray[np.str_], table: FloatArray, error: FloatArray) -> BoolArray:
    """Units whose mean rise cannot be told from the line of their kind: shape [units].

    Args:
        kinds: of the units, shape [units].
        table: their rises, shape [units, batches].
        error: standard errors of their means, shape [units].
    """
    means = table.mean(axis=1)
    close = np.zeros(means.size, np.bool_)
    for kind in np.unique(kinds):
        own = (kinds == kind) & np.isfinite(means)
        if own.any():
            distance = np.abs(means[own] - np.quantile(means[own], LINE))
            close[own] = distance <= _ERRORS * error[own]
    return close & (error > 0)


def nearest(kinds: NDArray[np.str_], means: FloatArray, count: int) -> IntArray:
    """Places of the `count` units whose mean rise is nearest to the line of their kind, for its spread.

    Args:
        kinds: of the units, shape [units].
        means: their mean rises, shape [units]; NaN comes first, because nothing is known of it.
        count: how many.
    """
    distance = np.full(means.size, -1.0)
    for kind in np.unique(kinds):
        own = (kinds == kind) & np.isfinite(means)
        if own.any():
            away = np.abs(means[own] - np.quantile(means[own], LINE))
            distance[own] = away / max(float(np.median(away)), np.finfo(np.float64).tiny)
    return np.argsort(distance, kind="stable")[:count]
