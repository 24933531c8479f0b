"""Which finalists are ablated on which batches, and what is known of them on the others.

Slopes and curvature of the loss predict what a batch's loss rises by without a unit. What they leave unsaid
hardly differs from batch to batch, so a few batches tell it (a control variate): ablation on a quarter of the
batches then says what ablation on all of them would. More are spent on the units that are too close to the
line between what may go and what stays.

Source: Owen (2013), "Monte Carlo theory, methods and examples", 8.9 "Control variates".
"""

from __future__ import annotations

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


class Part(StrEnum):
    """Some of the calibration batches."""

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
        return first


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
