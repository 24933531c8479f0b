"""How well scores rank units, judged by the truth of removing them one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy  # its `stats` load when they are asked for: they are half of what importing Esper would take

from esper.arrays import BoolArray, FloatArray
from esper.errors import EvidenceError


@dataclass(frozen=True)
class RankingQuality:
    """How a prediction agrees with the truth; NaN where it cannot be said.

    Attributes:
        units: Units that both measured.
        kendall_tau: Rank correlation over all pairs, ties corrected (tau-b), -1 to 1.
        spearman: Correlation of the ranks, -1 to 1.
        top_k_precision: Share of the predicted top units that are among the true top units.
        low_overlap: Share of the units at the low end, by prediction, that are there in truth.
        auc: Probability that a unit that should be pruned is predicted below one that should stay.
        mape: Mean absolute error of the large scores relative to the truth.
    """

    units: int
    kendall_tau: float
    spearman: float
    top_k_precision: float
    low_overlap: float
    auc: float
    mape: float


@dataclass(frozen=True)
class AccuracyTargets:
    """What a ranking should reach. Source: spec 000, "Configuration Parameters" (`accuracy_targets`)."""

    kendall_tau: float = 0.85
    auc: float = 0.95
    mape: float = 0.05

    def missed(self, quality: RankingQuality) -> tuple[str, ...]:
        """The names of the targets that are not met; what could not be said is not met."""
        verdicts = {
            "kendall_tau": quality.kendall_tau >= self.kendall_tau,
            "auc": quality.auc >= self.auc,
            "mape": quality.mape <= self.mape,
        }
        return tuple(name for name, is_met in verdicts.items() if not is_met)


class ImportanceTrackingValidator:
    """Judges scores against the truth, for instance the rise of the loss when a unit is ablated.

    Args:
        prune_fraction: The low end: the share of the units that should be pruned.
        top_k: Units of the top end, at most half of all.
        large_fraction: Share of the largest true scores over which the relative error is taken; below them
            truth is near zero and a relative error says nothing.

    Source: spec 003, "Accuracy Validation".
    """

    def __init__(self, prune_fraction: float = 0.3, top_k: int = 20, large_fraction: float = 0.5) -> None:
        self._prune_fraction = prune_fraction
        self._top_k = top_k
        self._large_fraction = large_fraction

    def validate(
        self, predicted: FloatArray, truth: FloatArray, *, is_same_unit: bool = True
    ) -> RankingQuality:
        """Compares a prediction with the truth, over the units that both measured.

        Args:
            predicted: Scores, shape [units]; larger is more important.
            truth: What removing each unit costs, shape [units].
            is_same_unit: Both are in one unit of measure. If not, `mape` is what is left after the best
                common factor for the large scores.

        Raises:
            EvidenceError: The shapes differ, or fewer than two units were measured by both.
        """
        if predicted.shape != truth.shape or predicted.ndim != 1:
            raise EvidenceError(
                f"Scores of shape {predicted.shape} cannot be judged by a truth of shape {truth.shape}; "
                "expected one number per unit in both."
            )
        # Units that only one of them measured say nothing about the order.
        both = np.isfinite(predicted) & np.isfinite(truth)
        mine, true = predicted[both].astype(np.float64), truth[both].astype(np.float64)
        if mine.size < 2:
            raise EvidenceError(
                f"{mine.size} of {truth.size} units were measured by both; a ranking needs at least two."
            )
        # Correlation with a constant is undefined.
        is_varied = np.ptp(mine) > 0 and np.ptp(true) > 0
        # The low end is as many as would be pruned; the top end at most half of all.
        count = max(1, round(self._prune_fraction * mine.size))
        top = max(1, min(self._top_k, mine.size // 2))
        return RankingQuality(
            units=mine.size,
            kendall_tau=float(scipy.stats.kendalltau(mine, true).statistic) if is_varied else math.nan,
            spearman=float(scipy.stats.spearmanr(mine, true).statistic) if is_varied else math.nan,
            # Negated scores turn the top end into a low end.
            top_k_precision=_overlap(-mine, -true, top),
            low_overlap=_overlap(mine, true, count),
            auc=_auc(mine, true <= np.sort(true)[count - 1]),
            mape=self._mape(mine, true, is_same_unit=is_same_unit),
        )

    def _mape(self, mine: FloatArray, true: FloatArray, *, is_same_unit: bool) -> float:
        # The largest true scores. What costs nothing, or less, has no relative error.
        count = max(1, math.ceil(self._large_fraction * true.size))
        large = np.argsort(-true, kind="stable")[:count]
        large = large[true[large] > 0]
        if not large.size:
            return math.nan
        # Predicted over true, [large units]; 1 is right.
        share = mine[large] / true[large]
        if not is_same_unit:
            # The median as the common factor: a few wild predictions do not move it.
            middle = float(np.median(share))
            share = share / middle if middle > 0 else np.full(share.shape, np.nan)
        return float(np.abs(share - 1).mean())


def _overlap(mine: FloatArray, true: FloatArray, count: int) -> float:
    """Share of the `count` predicted lowest that are truly as low, equal predictions drawn by lot."""
    # `line` is the last score that gets in. Below it all are in; those on it share the places that remain,
    # and count with the hits that a fair lot would give on average.
    line = np.sort(mine)[count - 1]
    is_sure, is_tied = mine < line, mine == line
    is_low = true <= np.sort(true)[count - 1]
    hits = is_low[is_sure].sum() + (count - int(is_sure.sum())) * is_low[is_tied].mean()
    return float(hits / count)


def _auc(mine: FloatArray, is_low: BoolArray) -> float:
    """Mann and Whitney's statistic: pairs in the right order, ties half."""
    low, high = int(is_low.sum()), int((~is_low).sum())
    if not low or not high:
        return math.nan
    # Rank sum of the units that should stay, less the least it can be: the pairs in which one of them lies
    # above a low one, ties half.
    ranks = scipy.stats.rankdata(mine)
    above = ranks[~is_low].sum() - high * (high + 1) / 2
    return float(above / (low * high))
