"""Thresholds: a quantile of what was measured, never more than phase and safety level allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from esper.errors import EvidenceError
from esper.importance.phases import TrainingPhase
from esper.importance.thresholds import (
    AdaptiveThresholdSelector,
    SafetyLevel,
    ThresholdCaps,
    ThresholdSettings,
)

CAPS = {
    "early": (0.001, 0.01, 0.05),
    "mid": (0.005, 0.02, 0.1),
    "late": (0.01, 0.05, 0.2),
}


@pytest.mark.parametrize("phase", list(TrainingPhase))
@pytest.mark.parametrize("number", range(3))
def test_the_caps_hold_for_every_phase_and_level(phase: TrainingPhase, number: int) -> None:
    scores = np.random.default_rng(0).permutation(1000).astype(float)
    found = AdaptiveThresholdSelector().select(scores, phase, list(SafetyLevel)[number], 0.5)
    cap = CAPS[phase.value][number]
    assert found.below(scores).sum() == round(1000 * cap)
    assert found.fraction == cap


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.5, 7.0, float("nan")]), min_size=1, max_size=40),
    st.sampled_from(list(TrainingPhase)),
    st.sampled_from(list(SafetyLevel)),
    st.floats(0, 1),
)
def test_never_more_candidates_than_allowed_and_never_an_unmeasured_one(
    values: list[float], phase: TrainingPhase, safety: SafetyLevel, wanted: float
) -> None:
    scores = np.array(values)
    measured = np.isfinite(scores)
    if not measured.any():
        return
    found = AdaptiveThresholdSelector().select(scores, phase, safety, wanted)
    chosen = found.below(scores)
    cap = CAPS[phase.value][list(SafetyLevel).index(safety)]
    assert chosen.sum() <= min(wanted, cap) * measured.sum() + 1e-6
    assert not chosen[~measured].any()
    assert found.fraction == pytest.approx(chosen.sum() / measured.sum())


def test_what_is_wanted_is_given_if_it_is_allowed() -> None:
    found = AdaptiveThresholdSelector().select(
        np.arange(100.0), TrainingPhase.LATE, SafetyLevel.AGGRESSIVE, 0.1
    )
    assert (found.score, found.fraction) == (10.0, 0.1)


def test_a_scale_does_not_matter() -> None:
    scores = np.random.default_rng(1).random(500)
    selector = AdaptiveThresholdSelector()
    one = selector.select(scores, TrainingPhase.MID, SafetyLevel.MODERATE)
    other = selector.select(scores * 1e-9, TrainingPhase.MID, SafetyLevel.MODERATE)
    assert one.below(scores).tolist() == other.below(scores * 1e-9).tolist()


def test_all_may_go_if_the_settings_say_so() -> None:
    everything = ThresholdCaps(conservative=1.0, moderate=1.0, aggressive=1.0)
    selector = AdaptiveThresholdSelector(ThresholdSettings(early=everything))
    found = selector.select(np.array([3.0, 1.0]), TrainingPhase.EARLY, SafetyLevel.CONSERVATIVE, 1.0)
    assert found.below(np.array([3.0, 1.0])).all()
    with pytest.raises(ValidationError):
        ThresholdCaps(conservative=1.1, moderate=1.0, aggressive=1.0)


def test_without_a_measurement_there_is_no_threshold() -> None:
    with pytest.raises(EvidenceError, match="No unit has a score"):
        AdaptiveThresholdSelector().select(np.array([np.nan]), TrainingPhase.MID, SafetyLevel.CONSERVATIVE)


@pytest.mark.parametrize(
    ("epoch", "planned", "phase"),
    [
        (0, 9, TrainingPhase.EARLY),
        (3, 9, TrainingPhase.EARLY),
        (4, 9, TrainingPhase.MID),
        (6, 9, TrainingPhase.MID),
        (7, 9, TrainingPhase.LATE),
        (12, 9, TrainingPhase.LATE),
        (1, 1, TrainingPhase.LATE),
        (5, None, TrainingPhase.MID),
    ],
)
def test_phases_are_thirds_of_the_planned_run(epoch: int, planned: int | None, phase: TrainingPhase) -> None:
    assert TrainingPhase.at(epoch, planned) is phase
