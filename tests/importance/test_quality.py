"""How well a ranking agrees with the truth, held against plain counting."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from esper.arrays import FloatArray
from esper.errors import EvidenceError
from esper.importance.quality import AccuracyTargets, ImportanceTrackingValidator, RankingQuality

VALUES = st.lists(st.integers(0, 6), min_size=2, max_size=15)
PAIRS = VALUES.flatmap(
    lambda a: st.tuples(st.just(a), st.lists(st.integers(0, 6), min_size=len(a), max_size=len(a)))
)


def judged(predicted: list[int] | FloatArray, truth: list[int] | FloatArray, **how: float) -> RankingQuality:
    validator = ImportanceTrackingValidator(**how)  # type: ignore[arg-type]  # one of them is an int
    return validator.validate(np.asarray(predicted, float), np.asarray(truth, float))


@given(PAIRS)
def test_tau_is_that_of_counting_pairs(pair: tuple[list[int], list[int]]) -> None:
    mine, true = pair
    assume(len(set(mine)) > 1 and len(set(true)) > 1)
    signs = [
        ((a > b) - (a < b)) * ((x > y) - (x < y))
        for (a, x), (b, y) in itertools.combinations(zip(mine, true, strict=True), 2)
    ]
    untied = [sum(a != b for a, b in itertools.combinations(side, 2)) for side in (mine, true)]
    assert judged(mine, true).kendall_tau == pytest.approx(sum(signs) / math.sqrt(untied[0] * untied[1]))


@given(PAIRS)
def test_auc_is_the_share_of_pairs_in_the_right_order(pair: tuple[list[int], list[int]]) -> None:
    mine, true = pair
    count = max(1, round(0.3 * len(true)))
    line = sorted(true)[count - 1]
    low = [m for m, t in zip(mine, true, strict=True) if t <= line]
    high = [m for m, t in zip(mine, true, strict=True) if t > line]
    right = [1.0 if a < b else 0.5 if a == b else 0.0 for a in low for b in high]
    found = judged(mine, true).auc
    assert found == pytest.approx(np.mean(right)) if right else math.isnan(found)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=30, unique=True))
def test_a_perfect_prediction_is_perfect_and_a_reversed_one_is_the_worst(values: list[float]) -> None:
    truth = np.asarray(values)
    quality = judged(truth, truth)
    assert quality.kendall_tau == pytest.approx(1)
    assert quality.spearman == pytest.approx(1)
    assert (quality.top_k_precision, quality.low_overlap) == (1, 1)
    assert quality.mape == pytest.approx(0) or math.isnan(quality.mape)
    worst = judged(-truth, truth)
    assert worst.kendall_tau == pytest.approx(-1)
    assert worst.auc == pytest.approx(0)


def test_overlap_and_top_precision_count_units() -> None:
    truth = np.arange(10.0)
    predicted = np.array([0, 9, 1, 2, 4, 5, 6, 7, 8, 3], float)
    quality = judged(predicted, truth, prune_fraction=0.3, top_k=2)
    assert quality.low_overlap == pytest.approx(2 / 3)  # 0 and 2 of 0, 2, 3
    assert quality.top_k_precision == pytest.approx(1 / 2)  # 8 of 8 and 1


def test_equal_predictions_are_drawn_by_lot_and_equal_truths_all_belong() -> None:
    assert judged([0, 0, 0, 0], [1, 2, 3, 4], prune_fraction=0.5).low_overlap == pytest.approx(0.5)
    assert judged([4, 3, 2, 1], [0, 0, 0, 9], prune_fraction=0.25).low_overlap == 0
    assert judged([4, 1, 2, 3], [0, 0, 0, 9], prune_fraction=0.25).low_overlap == 1


def test_the_error_is_taken_over_the_large_scores_only() -> None:
    truth, predicted = np.array([100.0, 10.0, 0.1, 0.0]), np.array([110.0, 9.0, 5.0, 5.0])
    assert judged(predicted, truth, large_fraction=0.5).mape == pytest.approx(0.1)
    scaled = ImportanceTrackingValidator(large_fraction=0.5)
    assert scaled.validate(predicted * 7, truth).mape > 1
    assert scaled.validate(predicted * 7, truth, is_same_unit=False).mape == pytest.approx(0.1, abs=0.01)


def test_units_that_one_side_did_not_measure_are_left_out() -> None:
    quality = judged(np.array([1.0, np.nan, 3.0, 2.0, 9.0]), np.array([1.0, 5.0, 3.0, 2.0, np.inf]))
    assert quality.units == 3
    assert quality.kendall_tau == pytest.approx(1)


def test_what_cannot_be_said_is_nan_and_meets_no_target() -> None:
    constant = judged([1, 1, 1], [1, 2, 3])
    assert math.isnan(constant.kendall_tau)
    assert math.isnan(judged([1, 2], [0, 0]).mape)
    assert AccuracyTargets().missed(constant) == ("kendall_tau", "auc", "mape")
    assert AccuracyTargets().missed(judged([1, 2, 3], [1, 2, 3])) == ()
    assert AccuracyTargets(mape=1.0).missed(judged([2, 1, 3, 4], [1, 2, 3, 4])) == ("kendall_tau", "auc")


@pytest.mark.parametrize(
    ("predicted", "truth"), [([1.0], [1.0]), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0], [1.0])]
)
def test_too_little_to_compare_is_refused(predicted: list[float], truth: list[float]) -> None:
    with pytest.raises(EvidenceError):
        judged(np.array(predicted), np.array(truth))
