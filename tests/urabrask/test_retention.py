from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from esper.arrays import FloatArray
from esper.leyline import Level, decode, encode
from esper.urabrask.quality import Measurement
from esper.urabrask.retention import check_retention
from esper.urabrask.settings import Settings
from esper.urabrask.validator import judge
from esper.urabrask.verdict import Decision, Verdict

SETTINGS = Settings(require_gradients=False)


def right(share: float, samples: int = 10_000) -> FloatArray:
    """Right (1) for the first share of the samples, wrong (0) for the rest."""
    return (np.arange(samples) < round(share * samples)).astype(np.float64)


def correct(before: FloatArray, after: FloatArray, level: Level = Level.CHANNEL) -> Verdict:
    return judge(Measurement(correctness=before), Measurement(correctness=after), level, SETTINGS)


def lossy(before: FloatArray, after: FloatArray) -> Verdict:
    return judge(Measurement(losses=before), Measurement(losses=after), Level.CHANNEL, SETTINGS)


@pytest.mark.parametrize(
    ("level", "drop", "samples", "decision"),
    [
        (Level.CHANNEL, 0.010, 10_000, Decision.GO),
        (Level.CHANNEL, 0.019, 10_000, Decision.CONDITIONAL_GO),
        (Level.CHANNEL, 0.021, 10_000, Decision.CONDITIONAL_GO),
        (Level.CHANNEL, 0.030, 10_000, Decision.NO_GO),
        (Level.HEAD, 0.022, 10_000, Decision.GO),
        (Level.HEAD, 0.040, 10_000, Decision.NO_GO),
        (Level.LAYER, 0.040, 10_000, Decision.GO),
        (Level.LAYER, 0.060, 10_000, Decision.NO_GO),
        (Level.CHANNEL, -0.050, 10_000, Decision.GO),
        (Level.CHANNEL, 0.010, 300, Decision.CONDITIONAL_GO),
        (Level.CHANNEL, 0.000, 20, Decision.CONDITIONAL_GO),
        (Level.CHANNEL, 0.000, 500, Decision.GO),
    ],
)
def test_the_interval_decides(level: Level, drop: float, samples: int, decision: Decision) -> None:
    assert correct(right(0.9, samples), right(0.9 - drop, samples), level).decision is decision


def test_pairing_sees_what_two_separate_shares_cannot() -> None:
    """The same samples right and wrong again: far narrower than when as many others change sides."""
    steady = correct(right(0.9, 1000), right(0.895, 1000)).retention
    shuffled = correct(right(0.9, 1000), np.roll(right(0.895, 1000), 80)).retention
    assert steady is not None
    assert shuffled is not None
    assert steady.upper - steady.lower < (shuffled.upper - shuffled.lower) / 3


def test_a_poor_network_must_keep_its_share() -> None:
    """At 20 per cent right, 95 per cent of that leaves one point and not two."""
    retention = correct(right(0.2), right(0.185)).retention
    assert retention is not None
    assert retention.limit == pytest.approx(0.01)


@given(
    arrays(np.float64, st.integers(2, 60), elements=st.sampled_from([0.0, 1.0])),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
)
def test_the_decision_follows_from_interval_and_limit(before: FloatArray, seed: int, share: float) -> None:
    after = np.where(np.random.default_rng(seed).random(before.size) < share, 1 - before, before)
    verdict = correct(before, after)
    r = verdict.retention
    assert r is not None
    assert r.lower <= r.drop + 1e-12
    assert r.drop <= r.upper + 1e-12
    expected = (
        Decision.GO
        if r.upper <= r.limit
        else Decision.CONDITIONAL_GO
        if r.lower <= r.limit
        else Decision.NO_GO
    )
    assert verdict.decision is expected


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        before = random.random(200) < 0.9
        after = np.where(random.random(200) < 0.06, ~before, before)
        truth = 0.06 * (0.9 - 0.1)
        r = correct(before.astype(np.float64), after.astype(np.float64)).retention
        assert r is not None
        covered += r.lower <= truth <= r.upper
    assert 0.92 <= covered / 400 <= 0.99


@pytest.mark.parametrize(
    ("factor", "decision"), [(1.02, Decision.GO), (1.0526, Decision.CONDITIONAL_GO), (1.10, Decision.NO_GO)]
)
def test_a_loss_has_a_relative_limit(factor: float, decision: Decision) -> None:
    before = 2.0 + np.linspace(-0.1, 0.1, 32)
    wobble = np.tile([0.01, -0.01], 16)
    assert lossy(before, before * factor + wobble).decision is decision


def test_quality_between_right_and_wrong_is_paired_too() -> None:
    overlap = np.linspace(0.6, 1.0, 200)
    verdict = correct(overlap, overlap - 0.001)
    assert verdict.decision is Decision.GO
    assert verdict.retention is not None
    assert verdict.retention.drop == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (Measurement(), Measurement(), "no held-out data"),
        (Measurement(correctness=right(0.9, 10)), Measurement(), "measured only before"),
        (Measurement(), Measurement(losses=np.ones(3)), "measured only after"),
        (Measurement(losses=np.ones(3)), Measurement(losses=np.ones(4)), "not the same held-out data"),
        (Measurement(losses=np.ones(1)), Measurement(losses=np.ones(1)), "at least 2"),
        (Measurement(losses=np.zeros(0)), Measurement(losses=np.zeros(0)), "at least 2"),
        (
            Measurement(losses=np.ones(2)),
            Measurement(losses=np.array([1.0, np.nan])),
            "not finite in 1 places",
        ),
        (
            Measurement(losses=np.array([1.0, np.inf])),
            Measurement(losses=np.ones(2)),
            "not finite in 1 places",
        ),
        (
            Measurement(correctness=right(0.9, 10), losses=np.ones(2)),
            Measurement(correctness=right(0.9, 10), losses=np.array([1.0, np.inf])),
            "loss after the mask is not finite",
        ),
    ],
)
def test_what_was_not_measured_soundly_is_a_no(before: Measurement, after: Measurement, message: str) -> None:
    check, retention = check_retention(before, after, Level.CHANNEL, SETTINGS)
    assert not check.passed
    assert retention is None
    assert message in check.text
    assert judge(before, after, Level.CHANNEL, SETTINGS).decision is Decision.NO_GO


def test_a_verdict_survives_json() -> None:
    verdict = correct(right(0.9), right(0.89))
    assert decode(Verdict, json.loads(json.dumps(encode(verdict), allow_nan=False))) == verdict


def test_a_verdict_about_what_was_not_measured_survives_json() -> None:
    verdict = judge(Measurement(), Measurement(), Level.CHANNEL, SETTINGS)
    assert decode(Verdict, json.loads(json.dumps(encode(verdict), allow_nan=False))) == verdict


@given(st.floats(1.0, 5.0))
def test_leeway_widens_every_limit_alike(leeway: float) -> None:
    wide = SETTINGS.with_leeway(leeway)
    sure = right(0.9)
    for level, drop in (
        (Level.CHANNEL, SETTINGS.limits.channel),
        (Level.HEAD, SETTINGS.limits.head),
    ):
        limit = judge(Measurement(correctness=sure), Measurement(correctness=sure), level, wide).retention
        assert limit is not None
        assert limit.limit == pytest.approx(drop * leeway, rel=0.35)  # shares of 0.9 are the stricter at last
        assert limit.limit <= drop * leeway + 1e-12
    loss = np.full(100, 2.0)
    limit = judge(Measurement(losses=loss), Measurement(losses=loss), Level.CHANNEL, wide).retention
    assert limit is not None
    assert limit.limit == pytest.approx(leeway * 2.0 * (1 / 0.95 - 1))
    assert wide.min_gradient_ratio == SETTINGS.min_gradient_ratio


def test_no_leeway_leaves_the_settings_as_they_are() -> None:
    assert SETTINGS.with_leeway(1.0) is SETTINGS


def test_correctness_far_below_guesses_tells_nothing_and_the_loss_does() -> None:
    before = Measurement(correctness=right(0.04, 100), losses=np.full(8, 1.0), chance=0.1)
    after = Measurement(correctness=right(0.04, 100), losses=np.full(8, 2.0), chance=0.1)
    check, retention = check_retention(before, after, Level.CHANNEL, SETTINGS)
    assert retention is not None
    assert retention.measure == "loss"
    assert not check.passed
    known = replace(before, correctness=right(0.9, 100))
    _, retention = check_retention(known, after, Level.CHANNEL, SETTINGS)
    assert retention is not None
    assert retention.measure == "correctness"


def test_few_samples_that_are_right_or_wrong_need_no_second_loss() -> None:
    before, after = (Measurement(correctness=right(share, 40), losses=np.ones(1)) for share in (0.9, 0.85))
    check, retention = check_retention(before, after, Level.CHANNEL, SETTINGS)
    assert retention is not None
    assert (retention.measure, retention.samples) == ("correctness", 40)
    broken = replace(after, losses=np.array([np.inf]))
    assert not check_retention(before, broken, Level.CHANNEL, SETTINGS)[0].passed
    assert check.value == pytest.approx(0.05)


def test_what_has_become_better_is_told_as_better() -> None:
    verdict = correct(right(0.9, 500), right(0.95, 500))
    assert "0.9000 before, 0.9500 after: better by 0.0500 (95% interval 0.0" in verdict.reason
