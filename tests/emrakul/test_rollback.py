from __future__ import annotations

import math
from dataclasses import replace

import pytest

from esper.emrakul.rollback import (
    Baseline,
    EpochRecord,
    RollbackReason,
    Strategy,
    Trigger,
    has_settled,
    limits_for,
    should_roll_back,
    strategy_for,
)
from esper.emrakul.settings import RollbackSettings
from esper.leyline import Level

RULES = RollbackSettings()
CALM = Baseline(
    metric=0.9,
    metric_noise=0.0,
    loss_mean=0.5,
    loss_deviation=0.05,
    level=Level.CHANNEL,
    is_higher_better=True,
)


def epochs(*values: tuple[float | None, float | None]) -> list[EpochRecord]:
    return [EpochRecord(10 + n, metric, loss) for n, (metric, loss) in enumerate(values)]


def trigger(reason: RollbackReason | None) -> Trigger | None:
    return None if reason is None else reason.trigger


@pytest.mark.parametrize(
    ("level", "drop", "expected"),
    [
        (Level.CHANNEL, 0.019, None),
        (Level.CHANNEL, 0.021, Trigger.METRIC_DROP),
        (Level.HEAD, 0.029, None),
        (Level.HEAD, 0.031, Trigger.METRIC_DROP),
        (Level.LAYER, 0.049, None),
        (Level.LAYER, 0.051, Trigger.METRIC_DROP),
    ],
)
def test_each_level_has_its_limit(level: Level, drop: float, expected: Trigger | None) -> None:
    reason = should_roll_back(epochs((0.9 - drop, 0.5)), replace(CALM, level=level), RULES)
    assert trigger(reason) == expected


def test_a_metric_in_per_cent_is_held_against_points_of_a_hundred() -> None:
    baseline, rules = replace(CALM, metric=97.0), RollbackSettings(metric_scale=100)
    assert should_roll_back(epochs((95.5, None)), baseline, rules) is None
    assert trigger(should_roll_back(epochs((94.5, None)), baseline, rules)) is Trigger.METRIC_DROP


def test_a_metric_above_one_is_taken_as_per_cent_unless_its_scale_is_known() -> None:
    shares, per_cent = epochs((0.9, None)), epochs((93.0, None))
    known = RollbackSettings(metric_scale=1.0)
    for records, rules, is_higher_better in (
        (shares, RULES, True),
        (per_cent, known, True),
        (per_cent, RULES, False),
        (epochs((math.inf, None)), RULES, True),
    ):
        assert limits_for(records, rules, "score", is_higher_better=is_higher_better) == (rules, "")
    limits, note = limits_for(per_cent, RULES, "score", is_higher_better=True)
    assert limits.metric_scale == 100.0
    assert "score was above 1, so 100 is taken for a perfect one" in note
    limits, note = limits_for(epochs((40.0, None), (125.0, None)), RULES, "reward", is_higher_better=True)
    assert limits.metric_scale == 125.0  # no share at all
    assert "reward was above 100" in note


def test_a_metric_that_should_fall_is_judged_in_its_own_direction() -> None:
    baseline = replace(CALM, metric=10.0, is_higher_better=False)
    assert should_roll_back(epochs((5.0, None)), baseline, RULES) is None
    assert should_roll_back(epochs((10.19, None)), baseline, RULES) is None
    assert trigger(should_roll_back(epochs((10.21, None)), baseline, RULES)) is Trigger.METRIC_DROP


def test_a_noisy_metric_may_fall_as_far_as_its_noise() -> None:
    noisy = replace(CALM, metric_noise=0.02)
    assert should_roll_back(epochs((0.845, None)), noisy, RULES) is None
    assert trigger(should_roll_back(epochs((0.835, None)), noisy, RULES)) is Trigger.METRIC_DROP


def test_a_drop_that_may_be_noise_waits_for_a_second_epoch_which_decides() -> None:
    noisy, first = replace(CALM, metric_noise=0.005), (0.875, None)
    assert should_roll_back(epochs(first), noisy, RULES) is None
    assert not has_settled(epochs(first), noisy, RULES, is_on_probation=False)
    assert has_settled(epochs(first, (0.885, None)), noisy, RULES, is_on_probation=False)
    reason = should_roll_back(epochs(first, first), noisy, RULES)
    assert trigger(reason) is Trigger.METRIC_DROP
    assert reason is not None
    assert "2 epochs in a row" in reason.text


def test_a_metric_is_at_least_as_noisy_as_its_samples_are_few() -> None:
    few, calm = epochs((0.8, None), (0.9, None)), epochs(*[(0.9, None)] * 6)
    for records in (few, calm):
        assert Baseline.of(records, Level.CHANNEL, sampling_noise=0.01).metric_noise == pytest.approx(0.009)


def test_only_the_last_epoch_is_held_against_the_metric() -> None:
    assert should_roll_back(epochs((0.8, None), (0.9, None)), CALM, RULES) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_goes_back_at_once_even_if_the_metric_is_fine(bad: float) -> None:
    reason = should_roll_back(epochs((0.9, bad), (0.9, 0.5)), CALM, RULES)
    assert trigger(reason) is Trigger.NOT_FINITE
    assert reason is not None
    assert trigger(should_roll_back(epochs((bad, 0.5)), CALM, RULES)) is Trigger.NOT_FINITE


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.0, 2.0, 2.0], Trigger.DIVERGENCE),
        ([2.0, 2.0], None),
        ([2.0, 0.6, 2.0], None),
        ([1.4, 1.4, 1.4], None),
        ([0.5, 2.0, 2.0, 2.0], Trigger.DIVERGENCE),
    ],
)
def test_divergence_needs_three_epochs_in_a_row_over_both_limits(
    losses: list[float], expected: Trigger | None
) -> None:
    history = epochs(*((0.9, loss) for loss in losses))
    assert trigger(should_roll_back(history, CALM, RULES)) == expected


def test_six_sigma_count_where_they_are_more_than_three_times_the_mean() -> None:
    history = epochs(*[(0.9, 2.0)] * 3)
    assert should_roll_back(history, replace(CALM, loss_deviation=0.5), RULES) is None


def test_a_negative_mean_loss_does_not_diverge_by_staying_where_it_is() -> None:
    history = epochs(*[(0.9, -1.0)] * 3)
    assert should_roll_back(history, replace(CALM, loss_mean=-1.0), RULES) is None


def test_a_mask_has_not_proved_itself_while_the_loss_is_where_divergence_begins() -> None:
    assert not has_settled(epochs((0.9, 2.0)), CALM, RULES, is_on_probation=False)
    assert has_settled(epochs((0.9, 2.0), (0.9, 0.5)), CALM, RULES, is_on_probation=False)
    assert has_settled(epochs((0.9, 2.0)), replace(CALM, loss_mean=None), RULES, is_on_probation=False)


def test_nothing_reported_is_no_reason_but_does_not_settle_either() -> None:
    silent = epochs((None, None), (None, None), (None, None))
    assert should_roll_back(silent, CALM, RULES) is None
    assert not has_settled(silent, CALM, RULES, is_on_probation=False)
    assert should_roll_back([], CALM, RULES) is None


def test_a_mask_settles_after_one_good_epoch_and_on_probation_after_two() -> None:
    good = epochs((0.9, 0.5), (0.9, 0.5))
    assert has_settled(good[:1], CALM, RULES, is_on_probation=False)
    assert not has_settled(good[:1], CALM, RULES, is_on_probation=True)
    assert has_settled(good, CALM, RULES, is_on_probation=True)
    assert not has_settled(epochs((0.5, 0.5)), CALM, RULES, is_on_probation=False)


def test_a_baseline_takes_the_last_metric_and_the_noise_without_the_trend() -> None:
    steady = [EpochRecord(n, 0.5 + 0.05 * n, 1.0 - 0.1 * n) for n in range(5)]
    baseline = Baseline.of(steady, Level.HEAD)
    assert baseline.metric == pytest.approx(0.7)
    assert baseline.metric_noise == pytest.approx(0.0, abs=1e-12)
    assert baseline.loss_mean == pytest.approx(0.8)
    shaky = [EpochRecord(n, 0.7 + 0.02 * (-1) ** n) for n in range(5)]
    assert Baseline.of(shaky, Level.HEAD).metric_noise > 0.02


def test_a_baseline_of_nothing_knows_nothing() -> None:
    baseline = Baseline.of([EpochRecord(1, None, math.nan)], Level.CHANNEL)
    assert (baseline.metric, baseline.loss_mean) == (None, None)
    assert should_roll_back(epochs((0.1, 9.0), (0.1, 9.0), (0.1, 9.0)), baseline, RULES) is None


def test_each_further_attempt_goes_further_back() -> None:
    drop = RollbackReason(Trigger.METRIC_DROP, 3, 0.1, 0.02, "worse")
    assert [strategy_for(drop, n) for n in range(5)] == [*Strategy, Strategy.BASELINE]
    broken = replace(drop, trigger=Trigger.NOT_FINITE)
    assert strategy_for(broken, 0) is Strategy.IMMEDIATE
