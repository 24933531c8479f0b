"""The table of what becomes of a mask, read like a timetable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from esper.checkpoint import decode, encode
from esper.emrakul.rollback import Baseline, EpochRecord, RollbackReason, Strategy, Trigger
from esper.emrakul.settings import RollbackSettings
from esper.emrakul.trial import TABLE, Action, Event, MaskEvent, MaskState, Trial, Watch
from esper.errors import IllegalTransitionError
from esper.leyline import Level
from esper.urabrask import Measurement

BASELINE = Baseline(0.9, 0.0, 0.5, 0.05, Level.CHANNEL, is_higher_better=True)
WATCH = Watch(
    BASELINE,
    epoch=4,
    is_on_probation=False,
    base_step=40,
    settled=(1, 3),
    before=Measurement(np.array([1.0, 0.0]), np.array([0.5])),
    changes={"weight": torch.ones(2)},
)
RULES = RollbackSettings()


def on_trial(watch: Watch = WATCH) -> Trial:
    return Trial(MaskState.ON_TRIAL, watch=watch)


@pytest.mark.parametrize(
    ("events", "actions"),
    [
        (
            [MaskEvent.ACCEPTED, MaskEvent.CONFIRMED, MaskEvent.WITHIN_LIMITS, MaskEvent.PROVED],
            [Action.WAIT, Action.APPLY, Action.WAIT, Action.CUT],
        ),
        (
            [MaskEvent.ACCEPTED, MaskEvent.UNMEASURED, MaskEvent.UNMEASURED, MaskEvent.REFUSED],
            [Action.WAIT, Action.WAIT, Action.WAIT, Action.DROP],
        ),
        (
            [MaskEvent.ACCEPTED, MaskEvent.CONFIRMED, Trigger.VETO, MaskEvent.ACCEPTED],
            [Action.WAIT, Action.APPLY, Action.TAKE_BACK, Action.WAIT],
        ),
        (
            [MaskEvent.ACCEPTED, MaskEvent.CONFIRMED, MaskEvent.RUN_ENDED, MaskEvent.PROVED],
            [Action.WAIT, Action.APPLY, Action.JUDGE, Action.CUT],
        ),
    ],
    ids=["settled", "refused", "vetoed", "judged"],
)
def test_a_mask_goes_its_way(events: list[Event], actions: list[Action]) -> None:
    trial = Trial()
    assert [trial.happen(event) for event in events] == actions


@pytest.mark.parametrize("state", list(MaskState))
def test_whatever_is_not_in_the_table_is_refused_and_changes_nothing(state: MaskState) -> None:
    for event in {*MaskEvent, *Trigger} - TABLE[state].keys():
        trial = Trial(state, pending_step=7, watch=WATCH)
        with pytest.raises(IllegalTransitionError, match=state.value):
            trial.happen(event)
        assert (trial.mask, trial.pending_step, trial.watch) == (state, 7, WATCH)


@pytest.mark.parametrize("state", list(MaskState))
def test_a_run_may_end_at_any_time(state: MaskState) -> None:
    assert MaskEvent.RUN_ENDED in TABLE[state]


def test_after_going_back_a_mask_on_trial_is_so_again_and_a_pending_one_is_decided_anew() -> None:
    before, now = on_trial(), Trial(MaskState.PENDING, pending_step=7)
    now.setbacks.rollbacks = 2
    now.load(before.state())
    now.went_back()
    assert (now.mask, now.base_step, now.setbacks.rollbacks) == (MaskState.ON_TRIAL, 40, 2)
    now.load(Trial(MaskState.PENDING, pending_step=7).state())
    now.went_back()
    assert (now.mask, now.pending_step, now.base_step) == (MaskState.NONE, -1, -1)


@pytest.mark.parametrize("trigger", list(Trigger))
def test_every_trigger_takes_back_what_is_on_trial(trigger: Trigger) -> None:
    trial = on_trial()
    assert trial.happen(trigger) is Action.TAKE_BACK
    assert trial.watch is None


def test_epochs_are_good_bad_or_say_nothing() -> None:
    trial = on_trial(replace(WATCH, is_on_probation=True))
    before = [EpochRecord(4, 0.1)]  # the epoch at whose end the mask was applied has not seen it
    good, silent, bad = EpochRecord(5, 0.9), EpochRecord(6), EpochRecord(7, 0.5)
    assert trial.event([*before, good], RULES, is_measured=True) is MaskEvent.WITHIN_LIMITS
    assert trial.event([*before, good, silent], RULES, is_measured=False) is MaskEvent.UNMEASURED
    assert trial.event([*before, good, silent, replace(good, epoch=7)], RULES, is_measured=True) is (
        MaskEvent.PROVED
    )
    reason = trial.event([*before, good, bad], RULES, is_measured=True)
    assert isinstance(reason, RollbackReason)
    assert reason.trigger is Trigger.METRIC_DROP


def test_going_back_goes_further_until_a_mask_has_proved_itself() -> None:
    reason = RollbackReason(Trigger.NOT_FINITE, 5, 1.0, 0.0, "no number")
    trial = on_trial()
    ways = []
    for _ in range(4):
        ways.append(trial.way_back(reason))
        assert trial.way_back(reason) is ways[-1]  # asked only
        trial.happen(reason.trigger)
        trial.mask = MaskState.ON_TRIAL
    assert ways == [Strategy.IMMEDIATE, Strategy.PROGRESSIVE, Strategy.BASELINE, Strategy.BASELINE]
    trial.happen(MaskEvent.PROVED)
    assert trial.way_back(reason) is Strategy.IMMEDIATE


def test_what_had_settled_before_stays_masked() -> None:
    keep = np.array([True, False, False, False, True])
    assert on_trial().settled(keep).tolist() == [True, False, True, False, True]
    assert Trial().settled(keep).tolist() == keep.tolist()


@pytest.mark.parametrize(
    "trial",
    [Trial(), Trial(MaskState.PENDING, pending_step=30), on_trial(), on_trial(replace(WATCH, before=None))],
)
def test_it_goes_through_a_checkpoint(trial: Trial) -> None:
    encoded = encode(trial.state())
    again = Trial(MaskState.PENDING, pending_step=9)
    again.load(decode(encoded.tree, encoded.tensors))
    assert (again.mask, again.pending_step) == (trial.mask, trial.pending_step)
    assert (again.watch is None) == (trial.watch is None)
    if again.watch is not None and trial.watch is not None:
        assert again.watch.baseline == trial.watch.baseline
        assert again.watch.settled == trial.watch.settled
        assert again.watch.changes["weight"].tolist() == [1.0, 1.0]
        if trial.watch.before is not None:
            assert again.watch.before is not None
            assert np.array_equal(np.asarray(again.watch.before.correctness), [1.0, 0.0])
