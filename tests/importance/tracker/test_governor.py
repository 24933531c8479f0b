"""The governor against a clock that moves only when told."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.importance.tracker.governor import OverheadGovernor
from esper.leyline import ManualClock


def run(
    governor: OverheadGovernor, clock: ManualClock, steps: int, step_seconds: float, cost_seconds: float
) -> int:
    """Trains for `steps`, and says how many were sampled."""
    samples = 0
    for _ in range(steps):
        if governor.is_due():
            clock.advance(cost_seconds)
            governor.charge(cost_seconds)
            samples += 1
        clock.advance(step_seconds)
    return samples


@given(
    step_seconds=st.floats(1e-4, 10.0),
    relative_cost=st.floats(1e-4, 2.0),
    fraction=st.floats(5e-4, 0.5),
)
def test_the_share_settles_under_the_limit(
    step_seconds: float, relative_cost: float, fraction: float
) -> None:
    clock = ManualClock()
    governor = OverheadGovernor(fraction, clock)
    run(governor, clock, 200, step_seconds, relative_cost * step_seconds)
    stride = governor.stride
    assert relative_cost <= fraction * stride * (1 + 1e-6)
    assert stride == 1 or relative_cost > fraction * (stride - 1) * (1 - 1e-6)  # and no rarer than that needs


def test_the_true_share_is_all_cost_over_all_time() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.001, clock)
    assert math.isnan(governor.share)
    samples = run(governor, clock, 100_000, 1.0, 0.5)
    governor.is_due()
    assert governor.share == pytest.approx(samples * 0.5 / (100_000 + samples * 0.5))
    assert governor.share <= 0.0011


def test_free_tracking_happens_at_every_step() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.01, clock)
    run(governor, clock, 200, 1.0, 0.001)
    assert governor.stride == 1
    assert run(governor, clock, 50, 1.0, 0.001) == 50


def test_the_stride_has_a_maximum() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.001, clock, max_stride=100)
    run(governor, clock, 500, 1.0, 50.0)
    assert governor.stride == 100


def test_one_slow_sample_does_not_move_the_stride() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.01, clock)
    run(governor, clock, 1000, 1.0, 0.1)
    stride = governor.stride
    governor.charge(100.0)
    assert governor.stride == stride


def test_the_true_share_stays_under_the_limit_when_some_samples_are_slow() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.01, clock)
    samples = 0
    for _ in range(100_000):
        if governor.is_due():
            samples += 1
            governor.charge(1.0 if samples % 4 == 0 else 0.1)
        clock.advance(1.0)
    assert governor.stride == 10  # the median of the costs
    assert 0.009 < governor.share < 0.01 + 0.11 / 100_000  # the first sample comes on top
    assert samples < 5_000


def test_a_debt_delays_the_next_sample_no_longer_than_the_maximum() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.01, clock, max_stride=100)
    run(governor, clock, 1000, 1.0, 0.1)
    governor.charge(1e9)
    assert run(governor, clock, 1000, 1.0, 0.1) >= 9


def test_a_pause_between_steps_does_not_move_the_stride() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.01, clock)
    run(governor, clock, 1000, 1.0, 0.1)
    stride = governor.stride
    clock.advance(3600.0)
    run(governor, clock, 1000, 1.0, 0.1)
    assert governor.stride == stride


def test_time_with_tracking_paused_is_not_training_time() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.01, clock)
    run(governor, clock, 1000, 1.0, 0.1)
    share = governor.share
    clock.advance(1e6)
    governor.pause()
    governor.is_due()
    assert governor.share == share


def test_the_stride_follows_when_steps_become_shorter() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.01, clock)
    run(governor, clock, 1000, 1.0, 0.1)
    assert governor.stride == 10
    run(governor, clock, 2000, 0.1, 0.1)
    assert governor.stride in (100, 101)


def test_the_first_sample_teaches_nothing_but_is_counted() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.01, clock)
    run(governor, clock, 3, 1.0, 30.0)
    assert governor.stride == 64
    assert governor.share > 0.5


def test_a_fixed_stride_stays() -> None:
    clock = ManualClock()
    governor = OverheadGovernor(0.001, clock, stride=7)
    assert run(governor, clock, 70, 1.0, 5.0) == 10
    assert governor.stride == 7
