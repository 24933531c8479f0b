"""What is remembered of units: ranks by epoch, their average, trend and stability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.arrays import FloatArray
from esper.errors import EvidenceError
from esper.importance.history import UnitHistory
from esper.importance.scores import rank_normalize

NAN = float("nan")


def history_of(rows: FloatArray, capacity: int = 500, momentum: float = 0.99) -> UnitHistory:
    history = UnitHistory(rows.shape[1], capacity, momentum)
    for epoch, row in enumerate(rows, 1):
        history.add(epoch, row)
    return history


def scores(epochs: int, units: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).random((epochs, units))


def test_the_average_is_the_running_mean_corrected_for_its_start() -> None:
    rows = scores(6, 4)
    mean, weight = np.zeros(4), 0.0
    for row in rows:
        mean = 0.9 * mean + 0.1 * rank_normalize(row)
        weight = 0.9 * weight + 0.1
    assert history_of(rows, momentum=0.9).average() == pytest.approx(mean / weight, abs=1e-4)


def test_the_trend_is_the_least_squares_line_of_the_ranks() -> None:
    rows = scores(30, 5)
    trend = history_of(rows).trend(window=12)
    ranks = np.stack([rank_normalize(row) for row in rows[-12:]])
    slope = np.polyfit(np.arange(12), ranks, 1)[0]
    assert trend.slope == pytest.approx(slope, abs=1e-4)
    assert trend.recent_average == pytest.approx(ranks.mean(axis=0), abs=1e-4)
    expected = 1 / (1 + ranks.var(axis=0) / ranks.mean(axis=0) ** 2)
    assert trend.stability == pytest.approx(expected, abs=1e-3)
    assert trend.num_epochs.tolist() == [12] * 5


def test_a_unit_that_rises_has_a_rising_trend_and_one_that_stands_still_is_stable() -> None:
    rows = np.array([[n, 10.0, 20.0 - n] for n in range(1, 16)])
    trend = history_of(rows).trend()
    assert trend.slope[0] > 0 > trend.slope[2]
    steady = history_of(np.array([[1.0, 2.0, 3.0]] * 5)).trend()
    assert steady.slope == pytest.approx([0, 0, 0])
    assert steady.stability == pytest.approx([1, 1, 1])


def test_scores_of_any_scale_leave_the_same_history() -> None:
    rows = scores(8, 6)
    falling = rows * 0.1 ** np.arange(8)[:, None]
    assert history_of(rows).trend().slope.tolist() == history_of(falling).trend().slope.tolist()


def test_epochs_without_measurement_count_for_nothing() -> None:
    rows = np.array([[1.0, NAN, NAN], [1.0, 2.0, NAN], [2.0, 1.0, NAN]])
    history = history_of(rows)
    trend = history.trend()
    assert trend.num_epochs.tolist() == [3, 2, 0]
    assert trend.slope[1] == pytest.approx(-1.0, abs=1e-4)
    assert np.isnan(trend.slope).tolist() == [False, False, True]
    assert np.isnan(trend.stability).tolist() == [False, False, True]
    assert np.isnan(history.average()).tolist() == [False, False, True]


def test_nothing_remembered_is_nothing_known() -> None:
    history = UnitHistory(3)
    assert np.isnan(history.average()).all()
    trend = history.trend()
    assert np.isnan(trend.slope).all()
    assert trend.num_epochs.tolist() == [0, 0, 0]
    history.add(1, np.array([1.0, 2.0, 3.0]))
    assert np.isnan(history.trend().slope).all()  # one epoch is no trend
    assert history.average() == pytest.approx([0, 0.5, 1], abs=1e-4)


def test_only_the_last_epochs_are_remembered() -> None:
    rows = scores(9, 3)
    history = history_of(rows, capacity=4)
    assert history.num_epochs == 4
    assert history.trend().recent_average == pytest.approx(history_of(rows[5:]).trend().recent_average)
    assert history.memory_bytes == 4 * (3 * 2 + 8)


def test_an_epoch_that_comes_again_replaces_what_followed_it() -> None:
    rows = scores(5, 3)
    history = history_of(rows)
    history.add(3, rows[0])
    assert history.num_epochs == 3
    again = history_of(rows[[0, 1, 0]])
    assert history.average().tolist() == again.average().tolist()


@given(st.integers(0, 6), st.integers(1, 7), st.integers(0, 2**16))
def test_after_a_cut_the_ranks_are_those_among_the_survivors(epochs: int, units: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows = np.where(generator.random((epochs, units)) < 0.2, NAN, generator.random((epochs, units)))
    is_left = generator.random(units) < 0.6
    survivors = np.where(is_left, np.cumsum(is_left) - 1, -1)
    history = UnitHistory(units)
    alone = UnitHistory(int(is_left.sum()) + 1)
    for epoch, row in enumerate(rows):
        history.add(epoch, row)
        alone.add(epoch, np.append(row[is_left], NAN))
    carried = history.select(survivors, int(is_left.sum()) + 1)  # one unit is new
    assert carried.average() == pytest.approx(alone.average(), abs=1e-4, nan_ok=True)
    assert carried.num_epochs == epochs


def test_state_comes_back_and_longer_ones_are_shortened() -> None:
    history = history_of(scores(5, 3))
    again = UnitHistory(3)
    again.load_state(history.state())
    assert again.average().tolist() == history.average().tolist()
    short = UnitHistory(3, capacity=2)
    short.load_state(history.state())
    assert short.num_epochs == 2
    history.add(6, np.ones(3))
    assert again.num_epochs == 5  # a copy, not a view


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"epochs": torch.tensor([1, 2]), "ranks": torch.zeros(2, 4, dtype=torch.int16)},
        {"epochs": torch.tensor([2, 1]), "ranks": torch.zeros(2, 3, dtype=torch.int16)},
        {"epochs": torch.tensor([1, 2]), "ranks": torch.zeros(2, 3)},
        {"epochs": torch.tensor([1, 2]), "ranks": torch.full((2, 3), -7, dtype=torch.int16)},
    ],
)
def test_a_state_of_something_else_is_refused_and_nothing_is_taken(state: dict[str, torch.Tensor]) -> None:
    history = history_of(scores(2, 3))
    before = history.average().tolist()
    with pytest.raises(EvidenceError, match="no history of 3 units"):
        history.load_state(state)
    assert history.average().tolist() == before


def test_scores_or_maps_of_another_network_are_refused() -> None:
    history = UnitHistory(3)
    with pytest.raises(EvidenceError, match="scores of shape"):
        history.add(1, np.ones(4))
    with pytest.raises(EvidenceError, match="3 units"):
        history.select(np.array([0, 1]), 2)
