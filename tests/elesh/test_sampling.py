"""A quarter of the batches says what all of them would, and who needs more gets more."""

from __future__ import annotations

import numpy as np
import pytest

from esper.elesh.sampling import Part, close_ones, completed


@pytest.mark.parametrize(("count", "first"), [(1, 1), (3, 3), (4, 4), (7, 4), (16, 4), (64, 16)])
def test_a_quarter_comes_first_but_four_if_there_are_four(count: int, first: int) -> None:
    numbers = Part.FIRST.of(count)
    assert numbers.size == first
    assert numbers[0] == 0
    assert numbers[-1] == count - 1


def test_what_predictions_leave_unsaid_in_all_batches_alike_is_known_from_some() -> None:
    random = np.random.default_rng(0)
    predicted = random.normal(size=(5, 16))
    whole = predicted + np.arange(5)[:, None]
    measured = np.zeros((5, 16), np.bool_)
    measured[:, Part.FIRST.of(16)] = True
    table, error = completed(np.where(measured, whole, np.nan), measured, predicted)
    np.testing.assert_allclose(table, whole)
    np.testing.assert_allclose(error, 0.0, atol=1e-12)


def test_the_error_is_that_of_the_mean_over_all_batches() -> None:
    random = np.random.default_rng(0)
    whole = random.normal(size=(20_000, 16))
    measured = np.zeros(whole.shape, np.bool_)
    measured[:, :4] = True
    table, error = completed(whole, measured, np.full(whole.shape, np.nan))
    spread = np.sqrt(np.square(table.mean(1) - whole.mean(1)).mean())
    assert np.sqrt(np.square(error).mean()) == pytest.approx(spread * np.sqrt(1.5), rel=0.05)  # 3 of 4 - 2
    _, none = completed(whole, np.ones(whole.shape, np.bool_), np.full(whole.shape, np.nan))
    assert not none.any()


def test_a_prediction_that_says_nothing_of_a_unit_is_not_followed() -> None:
    random = np.random.default_rng(0)
    whole, predicted = random.normal(size=(2, 4_000, 16))
    measured = np.zeros(whole.shape, np.bool_)
    measured[:, Part.FIRST.of(16)] = True
    errors = [
        np.abs(completed(whole, measured, given)[0].mean(1) - whole.mean(1)).mean()
        for given in (100.0 * predicted, np.full(whole.shape, np.nan), whole)
    ]
    assert errors[0] < 1.3 * errors[1]
    assert errors[2] < 1e-9


def test_who_was_measured_once_of_many_times_is_as_unsure_as_can_be() -> None:
    measured = np.eye(1, 4, dtype=np.bool_)
    _, error = completed(np.ones((1, 4)), measured, np.zeros((1, 4)))
    assert error[0] == np.inf


def test_a_rise_that_is_no_number_makes_a_unit_unmeasured_and_nobody_else() -> None:
    rises = np.ones((3, 8))
    rises[1, 0] = np.inf
    measured = np.zeros((3, 8), np.bool_)
    measured[:, :4] = True
    with np.errstate(invalid="ignore"):
        table, error = completed(rises, measured, np.zeros((3, 8)))
    assert np.isfinite(table.mean(axis=1)).tolist() == [True, False, True]
    kinds = np.array(["channel"] * 3)
    assert not close_ones(kinds, table, error)[1]


def test_close_are_those_whose_interval_holds_the_line_of_their_kind() -> None:
    table = np.repeat(np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [70.0], [80.0]]), 2, axis=1)
    kinds = np.array(["channel"] * 5 + ["head"] * 2)
    sure, unsure = np.full(7, 0.01), np.full(7, 0.5)
    assert close_ones(kinds, table, sure).tolist() == [False] * 7
    assert close_ones(kinds, table, unsure).tolist() == [False, True, True, True, False, False, False]
    assert not close_ones(kinds, table, np.zeros(7)).any()
