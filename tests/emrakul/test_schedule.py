from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.emrakul.schedule import Allowance, Schedule, ScheduleState, progress
from esper.emrakul.settings import Settings
from esper.emrakul.stages import ScheduleSettings
from esper.errors import ConfigError
from esper.leyline import Level, decode, encode

FRESH = ScheduleState()
SHAPES = st.sampled_from(["polynomial", "exponential", "linear"])


def target(fraction: float = 0.5, **schedule: Any) -> Settings:
    return Settings.model_validate({"target": {"flops": fraction}, "schedule": schedule})


def staged(**schedule: Any) -> Settings:
    return Settings.model_validate({"staged": True, "schedule": schedule})


def followed(schedule: Schedule, epochs: int) -> list[float]:
    """The share that is gone after each epoch if every plan removes exactly what is asked for."""
    removed, course = 0.0, []
    for epoch in range(1, epochs + 1):
        removed = max(removed, schedule.allowed(epoch, FRESH, removed).goal_fraction)
        course.append(removed)
    return course


@given(SHAPES, st.floats(0, 1), st.floats(0, 1), st.floats(1, 6), st.floats(0.1, 10))
def test_every_ramp_rises_from_zero_to_one(
    shape: str, one: float, other: float, power: float, rate: float
) -> None:
    settings = ScheduleSettings.model_validate({"shape": shape, "power": power, "rate": rate})
    early, late = sorted([one, other])
    assert 0 <= progress(early, settings) <= progress(late, settings) <= 1
    assert progress(0.0, settings) == 0
    assert progress(1.0, settings) == 1


@pytest.mark.parametrize(("shape", "half"), [("linear", 0.5), ("polynomial", 0.875), ("exponential", 0.8176)])
def test_half_of_the_time_is_this_much_of_the_way(shape: str, half: float) -> None:
    assert progress(0.5, ScheduleSettings.model_validate({"shape": shape})) == pytest.approx(half, abs=1e-4)


@given(st.integers(1, 300), st.floats(0.01, 0.99), SHAPES)
def test_a_target_is_asked_for_in_full_and_never_exceeded(epochs: int, fraction: float, shape: str) -> None:
    schedule = Schedule(target(fraction, shape=shape, max_step_fraction=1.0), epochs)
    course = followed(schedule, epochs)
    assert course == sorted(course)
    assert course[-1] == pytest.approx(fraction)
    assert course[schedule.ramp_at(0)[1] - 1] == pytest.approx(fraction)


def test_a_ramp_starts_and_ends_at_shares_of_the_run() -> None:
    schedule = Schedule(target(), 20)
    assert schedule.ramp_at(0) == (4, 14)
    assert not schedule.allowed(3, FRESH, 0.0).is_open
    assert schedule.allowed(4, FRESH, 0.0).is_open
    assert schedule.allowed(14, FRESH, 0.3).goal_fraction == 0.5


def test_one_cycle_does_not_catch_up_at_once_while_others_still_fit() -> None:
    schedule = Schedule(target(0.8), 20)
    assert schedule.steps_left(10, FRESH) == 5
    assert schedule.allowed(10, FRESH, 0.0).goal_fraction == 0.25
    assert schedule.allowed(10, ScheduleState(pace=0.5), 0.1).goal_fraction == pytest.approx(0.225)


def test_steps_are_as_large_as_the_time_that_is_left_asks_for() -> None:
    schedule = Schedule(target(0.8), 20)
    assert schedule.allowed(15, FRESH, 0.0).goal_fraction == pytest.approx(0.8 / 2)
    assert schedule.allowed(17, FRESH, 0.3).goal_fraction == pytest.approx(0.8)
    slow = ScheduleState(cycle_epochs=7)
    assert schedule.steps_left(10, slow) == 2
    assert schedule.allowed(10, slow, 0.0).goal_fraction == pytest.approx(0.4)


def test_steps_are_no_more_than_the_budget_pays_for() -> None:
    schedule = Schedule(target(0.4), 20)
    assert schedule.allowed(4, FRESH, 0.0).goal_fraction < 0.1
    assert schedule.allowed(4, FRESH, 0.0, affordable=2.9).goal_fraction == pytest.approx(0.2)
    assert schedule.allowed(4, FRESH, 0.2, affordable=0.0).goal_fraction == pytest.approx(0.4)
    # But steps are no larger than usual for its sake.
    assert schedule.allowed(4, FRESH, 0.0, affordable=1.0).goal_fraction == pytest.approx(0.25)


def test_steps_are_never_so_small_that_they_are_not_worth_an_analysis() -> None:
    schedule, removed = Schedule(target(), 200), 0.0
    course = [removed]
    for epoch in range(1, 200):
        allowed = schedule.allowed(epoch, FRESH, removed)
        if allowed.is_open:
            removed = allowed.goal_fraction
            course.append(removed)
    assert course[-1] == pytest.approx(0.5)
    assert len(course) - 1 <= 8


def test_with_few_steps_left_one_may_do_half_of_the_next_one() -> None:
    schedule = Schedule(target(0.8), 20)
    step = schedule.allowed(15, FRESH, 0.2)
    ahead = step.ahead(0.2, 1.0)
    assert step.steps_left == 2
    assert ahead is not None
    assert ahead.goal_fraction - 0.2 == pytest.approx(1.5 * (step.goal_fraction - 0.2))
    assert ahead.limit_fraction - ahead.goal_fraction == pytest.approx(0.02)


def test_a_step_that_surely_holds_is_as_large_as_is_allowed() -> None:
    step = Schedule(target(0.8), 20).allowed(15, FRESH, 0.2)
    half = 0.2 + 1.25 * (step.goal_fraction - 0.2)
    ahead = step.ahead(0.2, half - 0.2)
    assert ahead is not None
    assert ahead.goal_fraction == pytest.approx(half)
    assert ahead.ahead(0.2, half - 0.2) is None
    assert step.ahead(0.2, 0.0) is None


def test_no_step_goes_beyond_the_end_and_none_ahead_while_many_are_left() -> None:
    schedule = Schedule(target(0.8), 20)
    near = schedule.allowed(15, FRESH, 0.6)
    ahead = near.ahead(0.6, 1.0)
    assert ahead is None or ahead.goal_fraction <= 0.8
    assert schedule.allowed(4, FRESH, 0.0).ahead(0.0, 1.0) is None
    assert schedule.allowed(17, FRESH, 0.6).ahead(0.6, 1.0) is None  # the last one asks for all
    assert schedule.allowed(15, FRESH, 0.8).ahead(0.8, 1.0) is None  # nothing is asked for


def test_refusals_slow_down_only_as_long_as_time_is_left() -> None:
    schedule, slowed = Schedule(target(), 20), ScheduleState(pace=0.125)
    assert schedule.allowed(15, slowed, 0.3).goal_fraction == pytest.approx(0.3 + 0.2 / 2)
    assert schedule.allowed(17, slowed, 0.3).goal_fraction == pytest.approx(0.5)


def test_a_rest_is_not_taken_where_it_would_take_the_last_step() -> None:
    schedule = Schedule(target(), 20)
    assert schedule.allowed(8, ScheduleState(resting_until=9), 0.1).stage == "rest"
    assert schedule.allowed(14, ScheduleState(resting_until=16), 0.1).is_open


@pytest.mark.parametrize(
    ("epochs", "ramp", "last"),
    [(1, (1, 1), 1), (2, (1, 1), 1), (3, (1, 1), 1), (4, (1, 2), 2), (8, (2, 6), 6), (100, (20, 70), 89)],
)
def test_a_short_run_begins_early_and_leaves_an_epoch_to_recover(
    epochs: int, ramp: tuple[int, int], last: int
) -> None:
    schedule = Schedule(target(), epochs)
    assert schedule.ramp_at(0) == ramp
    assert schedule.last_epoch_at(0) == last


def test_a_ramp_leads_further_where_whole_multiples_need_it() -> None:
    schedule = Schedule(target(), 20)
    further = ScheduleState(target_fraction=0.6)
    assert schedule.allowed(14, further, 0.5).goal_fraction == pytest.approx(0.6)
    assert not schedule.allowed(14, FRESH, 0.5).is_open


def test_a_run_of_unknown_length_has_a_ramp_of_its_own() -> None:
    schedule = Schedule(target(assumed_epochs=10))
    assert schedule.ramp_at(0) == (2, 7)
    assert schedule.ramp_at(20) == (2, 21)
    assert schedule.allowed(1000, FRESH, 0.4).is_open


def test_given_epochs_win_over_shares() -> None:
    assert Schedule(target(start_epoch=2, end_epoch=3), 20).ramp_at(0) == (2, 3)


@pytest.mark.parametrize(
    ("settings", "epochs"), [(target(start_epoch=9, end_epoch=8), 20), (target(end_epoch=30), 20)]
)
def test_a_ramp_that_cannot_be_is_refused(settings: Settings, epochs: int) -> None:
    with pytest.raises(ConfigError, match="start_epoch <= end_epoch"):
        Schedule(settings, epochs)


def test_a_run_without_epochs_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be planned"):
        Schedule(target(), 0)


def test_nothing_is_removed_at_the_end_of_a_run_even_if_the_target_was_missed() -> None:
    schedule = Schedule(target(), 20)
    assert schedule.is_last(17)
    assert schedule.allowed(17, FRESH, 0.3).is_open
    quiet = schedule.allowed(18, FRESH, 0.3)
    assert not quiet.is_open
    assert "Nothing is decided after epoch 17" in quiet.reason


def test_what_is_gone_already_needs_no_cycle() -> None:
    assert not Schedule(target(), 20).allowed(10, FRESH, 0.6).is_open


def test_nothing_is_allowed_while_pruning_is_off() -> None:
    assert not Schedule(Settings(), 20).allowed(10, FRESH, 0.0).is_open


def test_the_spec_stages_have_their_caps_and_levels() -> None:
    schedule = Schedule(staged())
    for epoch, stage, cycle, levels in [
        (30, "preparation", 0.0, ()),
        (31, "conservative", 0.01, (Level.CHANNEL,)),
        (90, "moderate", 0.03, (Level.CHANNEL, Level.HEAD)),
        (120, "aggressive", 0.05, (Level.CHANNEL, Level.HEAD, Level.LAYER)),
        (121, "validation", 0.0, ()),
        (1000, "over", 0.0, ()),
    ]:
        allowance = schedule.allowed(epoch, FRESH, 0.0)
        assert (allowance.stage, allowance.levels) == (stage, levels)
        assert allowance.limit_fraction <= cycle
        assert (allowance.limit_fraction > 0) == bool(levels)


@given(SHAPES, st.integers(6, 400), st.booleans())
def test_stages_never_pass_their_caps(shape: str, epochs: int, scale: bool) -> None:
    course = followed(Schedule(staged(shape=shape, scale_stages=scale), epochs), 150)
    assert max(course) <= 0.2 + 1e-9
    steps = [after - before for before, after in zip([0.0, *course], course, strict=False)]
    assert max(steps) <= 0.05 + 1e-9
    assert min(steps) >= 0


def test_followed_to_the_letter_the_stages_end_at_twenty_per_cent() -> None:
    course = followed(Schedule(staged()), 150)
    assert course[29] == 0
    assert course[59] == pytest.approx(0.05)
    assert course[89] == pytest.approx(0.10)
    assert course[119] == course[149] == pytest.approx(0.20)


def test_a_stage_whose_cap_is_reached_removes_nothing_more() -> None:
    allowance = Schedule(staged()).allowed(60, FRESH, 0.05)
    assert not allowance.is_open
    assert "the cap is 5.00%" in allowance.reason


def test_stages_stretch_to_the_planned_run_when_asked() -> None:
    schedule = Schedule(staged(scale_stages=True), 15)
    stages = [schedule.allowed(epoch, FRESH, 0.0).stage for epoch in range(1, 16)]
    assert stages == [
        name
        for name in ("preparation", "conservative", "moderate", "aggressive", "validation")
        for _ in range(3)
    ]


@given(st.lists(st.booleans(), max_size=12))
def test_the_pace_falls_with_rejections_and_recovers_with_acceptances(verdicts: list[bool]) -> None:
    rules, state = ScheduleSettings(), FRESH
    for accepted in verdicts:
        before = state.pace
        state = state.after_acceptance(rules) if accepted else state.after_rejection(rules, 9)
        assert rules.min_pace <= state.pace <= 1
        assert state.pace >= before if accepted else state.pace <= before
    assert (state.accepted, state.rejected) == (verdicts.count(True), verdicts.count(False))
    assert decode(ScheduleState, json.loads(json.dumps(encode(state)))) == state


@pytest.mark.parametrize("settings", [target(), staged()])
def test_a_rejection_halves_the_next_step(settings: Settings) -> None:
    schedule = Schedule(settings)
    slower = FRESH.after_rejection(settings.schedule, 40)
    full = schedule.allowed(50, FRESH, 0.01).goal_fraction - 0.01
    assert schedule.allowed(50, slower, 0.01).goal_fraction - 0.01 == pytest.approx(full / 2)


@pytest.mark.parametrize("settings", [target(), staged()])
def test_after_a_refusal_nothing_is_asked_for_a_while(settings: Settings) -> None:
    schedule = Schedule(settings)
    resting = FRESH.after_rejection(settings.schedule, 40)
    assert resting.resting_until == 41
    allowance = schedule.allowed(41, resting, 0.01)
    assert not allowance.is_open
    assert allowance.stage == "rest"
    assert schedule.allowed(42, resting, 0.01).is_open


def test_rests_double_until_a_plan_has_proved_itself() -> None:
    rules, state, rests = ScheduleSettings(max_rest_epochs=5), FRESH, []
    for epoch in (10, 20, 30, 40):
        state = state.after_acceptance(rules).after_rejection(rules, epoch)
        rests.append(state.resting_until - epoch)
    assert rests == [1, 2, 4, 5]
    assert state.after_success().after_rejection(rules, 50).resting_until == 51


def test_rests_can_be_switched_off() -> None:
    rules = ScheduleSettings(max_rest_epochs=0)
    assert FRESH.after_rejection(rules, 10).resting_until == 10


def test_an_allowance_survives_json() -> None:
    allowance = Schedule(target(), 20).allowed(10, FRESH, 0.1)
    assert decode(Allowance, json.loads(json.dumps(encode(allowance)))) == allowance
