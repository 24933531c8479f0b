"""What is remembered of every unit's importance: its ranks by epoch, their average, trend and stability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper.arrays import FloatArray, IntArray
from esper.errors import EvidenceError
from esper.importance.scores import rank_normalize, weighted_mean

_UNMEASURED, _TOP = -1, 32767


@dataclass(frozen=True, eq=False)
class ImportanceTrend:
    """How the importance ranks (0 to 1) of units have moved lately; arrays of shape [units], NaN unmeasured.

    Attributes:
        slope: Change of the rank in one epoch, by least squares; NaN below two epochs.
        stability: 1 for a rank that stands still, towards 0 the more it moves about its mean.
        recent_average: Mean rank.
        num_epochs: Epochs in the window in which the unit was measured.

    Source: spec 003, `get_importance_trend`.
    """

    slope: FloatArray
    stability: FloatArray
    recent_average: FloatArray
    num_epochs: IntArray


class UnitHistory:
    """Importance ranks of every unit over the last epochs, two bytes for each.

    Ranks and not scores: all scores fall as the loss does, and only what changes between units is a trend.

    Args:
        num_units: Units of the network.
        capacity: Epochs that are remembered.
        momentum: Of the running average, from epoch to epoch.
    """

    def __init__(self, num_units: int, capacity: int = 500, momentum: float = 0.99) -> None:
        self.num_units = num_units
        self._capacity = capacity
        self._momentum = momentum
        self._epochs: IntArray = np.zeros(0, np.int64)
        self._rows: NDArray[np.int16] = np.zeros((0, num_units), np.int16)

    @property
    def num_epochs(self) -> int:
        """Epochs that are remembered."""
        return self._epochs.size

    @property
    def memory_bytes(self) -> int:
        return self._rows.nbytes + self._epochs.nbytes

    def add(self, epoch: int, scores: FloatArray) -> None:
        """Remembers the ranks of one epoch; the same epoch again replaces it, and what came after it goes.

        Args:
            epoch: Its number.
            scores: Importance of every unit, shape [units]; NaN is unmeasured.

        Raises:
            EvidenceError: The scores are of another number of units.
        """
        if scores.shape != (self.num_units,):
            raise EvidenceError(
                f"A history of {self.num_units} units was given scores of shape {scores.shape}. Follow a cut "
                "with `select` first."
            )
        # Epochs ascend. Those from this one on go (a run that was rolled back measures them again), and the
        # oldest one where the window is full.
        before = int(np.searchsorted(self._epochs, epoch))
        first = max(before + 1 - self._capacity, 0)
        self._epochs = np.append(self._epochs[first:before], epoch)
        self._rows = np.concatenate([self._rows[first:before], _packed(rank_normalize(scores))[None]])

    def average(self) -> FloatArray:
        """Exponential running mean of the ranks, corrected for its start: shape [units], NaN unmeasured."""
        # Weights momentum^age, [epochs, 1]. The mean divides by the weights of the epochs that measured the
        # unit.
        ages = self._epochs[-1:] - self._epochs
        return weighted_mean(
            self._ranks(self.num_epochs), (self._momentum ** ages.astype(np.float64))[:, None]
        )

    def trend(self, window: int = 50) -> ImportanceTrend:
        """How ranks moved in the last `window` epochs that are remembered."""
        # [epochs, units] from here on; every unit has its own epochs, those in which it was measured.
        ranks = self._ranks(window)
        is_measured = np.isfinite(ranks)
        count: IntArray = is_measured.sum(axis=0).astype(np.int64)
        # A window without rows makes the first slice `[-0 or None:]`, which is everything; the second one
        # ends it.
        times = np.where(is_measured, self._epochs[-len(ranks) or None :, None][: len(ranks)], np.nan)
        ones = np.ones((len(ranks), 1))
        middle, average = weighted_mean(times, ones), weighted_mean(ranks, ones)
        # Least squares around each unit's own middle: covariance of time and rank over variance of time,
        # [units].
        offset, deviation = np.nan_to_num(times - middle), np.nan_to_num(ranks - average)
        spread = np.square(offset).sum(axis=0)
        slope = np.divide(
            (offset * deviation).sum(axis=0), spread, out=np.full(self.num_units, np.nan), where=spread > 0
        )
        # The variance relative to the mean's square (a squared coefficient of variation) has no scale: 0
        # becomes 1, and what moves as much as its own mean becomes 1/2.
        variance = np.square(deviation).sum(axis=0) / np.maximum(count, 1)
        relative = variance / np.maximum(np.square(np.nan_to_num(average)), np.finfo(np.float64).tiny)
        stability = np.where(count > 0, 1 / (1 + relative), np.nan)
        return ImportanceTrend(slope, stability, average, count)

    def expected(self, window: int = 50) -> FloatArray:
        """The rank to expect at the next epoch: the running mean, and more for a unit that rises.

        Returns:
            Shape [units], 0 to 1; NaN unmeasured.
        """
        # The running mean lags behind. A rise is made up for, a fall is not: to keep a unit too long is the
        # safe error.
        rise = np.maximum(np.nan_to_num(self.trend(window).slope), 0.0)
        ranks: FloatArray = np.minimum(self.average() + rise, 1.0)
        return ranks

    def select(self, survivors: IntArray, num_units: int) -> UnitHistory:
        """The same history after a cut: unit `u` becomes `survivors[u]`, or is gone where that is -1.

        Ranks are taken anew among those that are left. New units begin unmeasured.

        Raises:
            EvidenceError: The map is of another number of units.
        """
        if survivors.shape != (self.num_units,) or survivors.max(initial=-1) >= num_units:
            raise EvidenceError(
                f"A history of {self.num_units} units cannot be carried over by a map of shape "
                f"{survivors.shape} to {num_units} units: it needs one entry for every old unit, its new "
                "number or -1."
            )
        history = UnitHistory(num_units, self._capacity, self._momentum)
        # [epochs, new units]: the survivors' ranks, spread over 0 to 1 again as if the others had never
        # been.
        ranks = np.full((self.num_epochs, num_units), np.nan)
        is_left = survivors >= 0
        ranks[:, survivors[is_left]] = self._ranks(self.num_epochs)[:, is_left]
        history._epochs = self._epochs.copy()
        history._rows = np.array([_packed(rank_normalize(row)) for row in ranks], np.int16).reshape(
            -1, num_units
        )
        return history

    def state(self) -> dict[str, Tensor]:
        """Copies for a checkpoint: `epochs` int64 [epochs], `ranks` int16 [epochs, units]."""
        return {"epochs": torch.from_numpy(self._epochs.copy()), "ranks": torch.from_numpy(self._rows.copy())}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state`.

        Raises:
            EvidenceError: It is no history of this number of units; nothing was taken over.
        """
        epochs, ranks = state.get("epochs"), state.get("ranks")
        is_sound = (
            epochs is not None
            and ranks is not None
            and (epochs.dtype, ranks.dtype) == (torch.int64, torch.int16)
            and ranks.shape == (epochs.numel(), self.num_units)
            and bool((epochs.flatten().diff() > 0).all())
            and bool((ranks >= _UNMEASURED).all())
        )
        if not is_sound or epochs is None or ranks is None:
            shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
            raise EvidenceError(
                f"This is no history of {self.num_units} units: {shapes}. It belongs to another network or "
                "is damaged; begin a new one."
            )
        kept = slice(max(epochs.numel() - self._capacity, 0), None)
        self._epochs = epochs.cpu().numpy().copy()[kept]
        self._rows = ranks.cpu().numpy().copy()[kept]

    def _ranks(self, window: int) -> FloatArray:
        """Ranks of the last epochs: shape [epochs, units]."""
        rows = self._rows[max(len(self._rows) - window, 0) :]
        ranks: FloatArray = np.where(rows == _UNMEASURED, np.nan, rows / _TOP)
        return ranks


def _packed(ranks: FloatArray) -> NDArray[np.int16]:
    is_measured = np.isfinite(ranks)
    # Fixed point: 0 to 1 in steps of 1/32767. The code -1 is no rank.
    packed: NDArray[np.int16] = np.where(
        is_measured, np.rint(np.nan_to_num(ranks) * _TOP), _UNMEASURED
    ).astype(np.int16)
    return packed
