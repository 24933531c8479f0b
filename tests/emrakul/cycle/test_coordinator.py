from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.elesh import Evidence
from esper.emrakul.cycle.coordinator import Coordinator, CoordinatorState
from esper.emrakul.cycle.outcome import CycleOutcome, CycleStatus
from esper.emrakul.plan import Rejection
from esper.emrakul.schedule import Allowance, ScheduleState
from esper.emrakul.settings import FloorSettings, Settings
from esper.errors import AnalysisError, AnalysisTimeout
from esper.importance import ThresholdCaps, ThresholdSettings
from esper.leyline import Level, decode, encode
from esper.urabrask import Decision, Verdict
from tests.emrakul.cycle.laboratory import SETTINGS, Laboratory
from tests.emrakul.networks import chain, layered, measured

EARLY = 3
"""An epoch of ten after which more than a few steps fit."""


def test_a_cycle_ends_with_a_plan_that_the_validator_accepted() -> None:
    lab = Laboratory()
    outcome = lab.run(lab.coordinator(), EARLY)
    assert outcome.status is CycleStatus.ACCEPTED
    assert outcome.plan is not None
    assert outcome.plan.removed_after >= outcome.allowance.goal_fraction
    assert outcome.verdict is not None
    assert outcome.verdict.is_accepted
    assert lab.calls == ["analyze", "validate"]
    assert outcome.duration_seconds == 2.0


def test_the_coordinator_remembers_how_far_whole_multiples_lead() -> None:
    lab = Laboratory(settings=Settings.model_validate({"target": {"flops": 0.5}, "plan": {"round_to": 8}}))
    coordinator = lab.coordinator()
    lab.run(coordinator)
    reached = coordinator.state.schedule.target_fraction
    assert 0.5 < reached < 0.7
    assert decode(CoordinatorState, encode(coordinator.state)) == coordinator.state


def test_analysis_and_validation_are_told_how_long_they_may_take() -> None:
    lab = Laboratory()
    lab.run(lab.coordinator(), EARLY)
    assert lab.seconds == pytest.approx([210, 269])


def test_a_conditional_go_is_accepted_on_probation() -> None:
    lab = Laboratory(decisions=[Decision.CONDITIONAL_GO])
    outcome = lab.run(lab.coordinator())
    assert outcome.status is CycleStatus.ACCEPTED
    assert outcome.is_on_probation


def test_a_no_go_shrinks_the_plan_until_it_is_accepted() -> None:
    lab = Laboratory(decisions=[Decision.NO_GO, Decision.NO_GO])
    outcome = lab.run(lab.coordinator())
    assert outcome.status is CycleStatus.ACCEPTED
    assert len(outcome.refused) == 2
    assert lab.offered == sorted(lab.offered, reverse=True)
    assert len(set(lab.offered)) == 3


def test_after_enough_attempts_the_cycle_is_rejected_and_the_next_step_is_smaller() -> None:
    lab = Laboratory(decisions=[Decision.NO_GO] * 10)
    coordinator = lab.coordinator()
    outcome = lab.run(coordinator)
    assert outcome.status is CycleStatus.REJECTED
    assert lab.calls.count("validate") == SETTINGS.plan.max_attempts
    assert len(outcome.refused) == SETTINGS.plan.max_attempts - 1
    assert coordinator.state.schedule.pace == 0.5
    assert coordinator.state.breaker.failures == 0


def test_an_error_in_the_analysis_means_no_pruning_this_cycle() -> None:
    lab = Laboratory(error=AnalysisError("worker 3 died"))
    outcome = lab.run(lab.coordinator())
    assert outcome.status is CycleStatus.FAILED
    assert outcome.reason == "AnalysisError: worker 3 died"
    assert outcome.error is not None
    assert "Traceback" in outcome.error
    assert outcome.plan is None


def test_an_interrupt_is_not_swallowed() -> None:
    lab = Laboratory(error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        lab.run(lab.coordinator())


def test_evidence_about_another_network_fails_the_cycle() -> None:
    class Confused(Laboratory):
        def analyze(self, finalists: IntArray, seconds: float) -> Evidence:
            return measured(chain([5]))

    lab = Confused()
    outcome = lab.run(lab.coordinator())
    assert outcome.status is CycleStatus.FAILED
    assert "EvidenceError" in outcome.reason


@pytest.mark.parametrize(
    "lab",
    [
        Laboratory(analysis_seconds=211),
        Laboratory(screen_seconds=210),
        Laboratory(validation_seconds=300),
        Laboratory(validation_seconds=100, decisions=[Decision.NO_GO] * 9),
        Laboratory(error=AnalysisTimeout("over after 210 s")),
    ],
)
def test_passing_the_deadline_skips_the_cycle_and_counts_for_the_breaker(lab: Laboratory) -> None:
    coordinator = lab.coordinator()
    outcome = lab.run(coordinator)
    assert outcome.status is CycleStatus.SKIPPED
    assert outcome.is_late
    assert coordinator.state.breaker.failures == 1


def test_three_failures_in_a_row_stop_pruning_until_it_has_cooled_down() -> None:
    asked = {"target": {"flops": 0.5}, "budget": {"cooldown_epochs": 4}}
    lab = Laboratory(error=AnalysisError("gone"), settings=Settings.model_validate(asked))
    coordinator = lab.coordinator()
    for epoch in (2, 3, 4):
        assert lab.run(coordinator, epoch).status is CycleStatus.FAILED
    lab.calls.clear()
    outcome = lab.run(coordinator, 5)
    assert outcome.status is CycleStatus.SKIPPED
    assert "breaker is open after 3 failures" in outcome.reason
    assert not lab.calls
    lab.error = None
    assert lab.run(coordinator, 8).status is CycleStatus.ACCEPTED


def test_the_operator_closes_the_breaker() -> None:
    lab = Laboratory(error=AnalysisError("gone"))
    coordinator = lab.coordinator()
    for epoch in (2, 3, 4):
        lab.run(coordinator, epoch)
    lab.error = None
    coordinator.close_breaker(4)
    assert lab.run(coordinator, 5).status is CycleStatus.ACCEPTED


def test_rollbacks_slow_down_and_open_the_breaker_and_a_settled_plan_forgives() -> None:
    coordinator = Laboratory().coordinator()
    coordinator.record_rollback(3)
    coordinator.record_rollback(4)
    assert coordinator.state.schedule.pace == 0.25
    coordinator.record_settled(5)
    assert coordinator.state.breaker.failures == 0
    for epoch in (6, 7, 8):
        coordinator.record_rollback(epoch)
    assert coordinator.state.breaker.opened_epoch == 8


def test_outside_the_schedule_nothing_is_measured() -> None:
    lab = Laboratory()
    outcome = lab.run(lab.coordinator(), epoch=1)
    assert outcome.status is CycleStatus.SKIPPED
    assert "ramp starts" in outcome.reason
    assert not lab.calls


def test_without_a_screen_there_are_no_finalists() -> None:
    lab = Laboratory(has_screen=False)
    assert lab.run(lab.coordinator()).status is CycleStatus.SKIPPED
    assert not lab.calls


@pytest.mark.parametrize("anatomy", [chain([]), Anatomy((), (), (), ())])
def test_a_network_without_units_is_left_alone(anatomy: Anatomy) -> None:
    lab = Laboratory(anatomy)
    assert lab.run(lab.coordinator()).status is CycleStatus.SKIPPED
    assert not lab.calls


def test_evidence_without_a_single_safe_unit_is_explained() -> None:
    class Unsure(Laboratory):
        def analyze(self, finalists: IntArray, seconds: float) -> Evidence:
            unsure = np.full(self.anatomy.num_units, 0.1)
            return replace(super().analyze(finalists, seconds), confidence=unsure)

    asked = {"target": {"flops": 0.5}, "plan": {"required_confidence": 0.95}}
    lab = Unsure(settings=Settings.model_validate(asked))
    outcome = lab.run(lab.coordinator())
    assert outcome.status is CycleStatus.SKIPPED
    assert "by confidence" in outcome.reason


def test_the_same_cycle_asked_again_gives_the_stored_outcome() -> None:
    lab = Laboratory()
    coordinator = lab.coordinator(CoordinatorState(schedule=ScheduleState(pace=0.5)))
    first = lab.run(coordinator, EARLY)
    state = coordinator.state
    assert lab.run(coordinator, EARLY) is first
    assert lab.calls == ["analyze", "validate"]
    assert coordinator.state == state


def test_the_key_names_the_decision_by_its_content() -> None:
    one, other = Laboratory(), Laboratory()
    assert one.run(one.coordinator()).key == other.run(other.coordinator()).key
    assert str(one.run(one.coordinator()).key).startswith("5:f00d:")
    assert one.run(one.coordinator(), 6).key != one.run(one.coordinator(), 5).key


def test_the_state_survives_json() -> None:
    lab = Laboratory(decisions=[Decision.NO_GO] * 9)
    coordinator = lab.coordinator()
    lab.run(coordinator)
    state = json.loads(json.dumps(encode(coordinator.state)))
    assert decode(CoordinatorState, state) == coordinator.state


def test_an_outcome_can_be_recorded_as_json() -> None:
    lab = Laboratory(decisions=[Decision.NO_GO])
    outcome = lab.run(lab.coordinator())
    record = json.loads(json.dumps(encode(outcome), allow_nan=False))
    assert record["status"] == "accepted"
    assert outcome.plan is not None
    for stored in (record, {**record, "plan_id": outcome.plan.id}):  # as older runs have it
        again = decode(CycleOutcome, stored)
        assert again.plan is not None
        assert again.plan.id == outcome.plan.id
        assert (again.key, again.verdict) == (outcome.key, outcome.verdict)


STAGED = Settings.model_validate(
    {"staged": True, "schedule": {"scale_stages": True}, "plan": {"min_finalists": 2}}
)


@pytest.mark.parametrize(("epoch", "stage", "share"), [(5, "moderate", 0.02), (8, "aggressive", 0.2)])
def test_in_a_stage_only_what_its_threshold_lets_through_may_go(epoch: int, stage: str, share: float) -> None:
    lab = Laboratory(settings=STAGED)
    outcome = lab.run(lab.coordinator(), epoch)
    assert outcome.allowance.stage == stage
    assert outcome.plan is not None
    ranks = measured(lab.anatomy).screen
    allowed = np.argsort(ranks)[: int(share * ranks.size)]
    assert set(outcome.plan.units.tolist()) <= set(allowed.tolist())
    asked = np.concatenate([outcome.plan.units, *outcome.plan.rejected.values()])
    above = np.setdiff1d(asked, allowed)
    assert set(above.tolist()) == set(outcome.plan.rejected.get(Rejection.THRESHOLD, above[:0]).tolist())


def test_a_stage_that_allows_less_than_one_unit_allows_one() -> None:
    lab = Laboratory(settings=STAGED)
    none = ThresholdCaps(conservative=0.0, moderate=0.0, aggressive=0.0)
    strict = ThresholdSettings(early=none, mid=none, late=none)
    outcome = lab.run(Coordinator(STAGED, lab.clock, thresholds=strict), 5)
    assert outcome.plan is not None
    assert set(outcome.plan.units.tolist()) <= {int(np.argmin(measured(lab.anatomy).screen))}
    assert outcome.key != lab.run(lab.coordinator(), 5).key


def test_a_target_is_not_held_back_by_thresholds() -> None:
    lab = Laboratory()
    outcome = lab.run(lab.coordinator())
    assert outcome.plan is not None
    assert Rejection.THRESHOLD not in outcome.plan.rejected
    assert outcome.plan.removed_after >= outcome.plan.goal_fraction > 0.0


class LayersLast(Laboratory):
    """Its screen calls whole layers most important; it remembers what it was asked to ablate."""

    asked: tuple[int, ...] = ()

    def screen(self) -> FloatArray:
        return np.linspace(0.0, 1.0, self.anatomy.num_units)

    def analyze(self, finalists: IntArray, seconds: float) -> Evidence:
        self.asked = tuple(finalists.tolist())
        return super().analyze(finalists, seconds)


def test_in_a_stage_every_kind_has_candidates_of_its_own() -> None:
    anatomy = layered(chain([32] * 4), ["conv1", "conv2", "conv3"])
    floors = FloorSettings(min_layers=1, min_layers_fraction=0.5)
    lab = LayersLast(anatomy, settings=STAGED.model_copy(update={"floors": floors}))
    outcome = lab.run(lab.coordinator(), 8)
    assert outcome.plan is not None
    above = outcome.plan.rejected.get(Rejection.THRESHOLD, np.zeros(0, np.int64))
    asked = np.setdiff1d(lab.asked, above)
    assert 0 < (~anatomy.is_layer[asked]).sum() <= int(0.2 * 128)
    assert np.flatnonzero(anatomy.is_layer)[0] in asked


def test_a_strategy_of_ones_own_takes_the_place_of_the_schedule() -> None:
    lab = Laboratory()
    coordinator = lab.coordinator()
    allowance = Allowance("flops", 0.03, 0.05, (Level.CHANNEL,), "my own", "because a policy says so")
    outcome = coordinator.run_cycle(lab.cycle(), allowance, lab)
    assert outcome.allowance == allowance
    assert outcome.plan is not None
    assert 0.03 <= outcome.plan.removed_after <= 0.05
    assert coordinator.state.schedule.target_fraction == 0.0  # there is no ramp to remember


def test_what_was_found_before_an_error_is_part_of_the_outcome() -> None:
    class Unvalidated(Laboratory):
        def validate(self, keep: BoolArray, seconds: float, leeway: float = 1.0) -> Verdict:
            raise AnalysisError("worker 1 died")

    lab = Unvalidated()
    outcome = lab.run(lab.coordinator())
    assert outcome.status is CycleStatus.FAILED
    assert outcome.plan is not None
    assert outcome.rationale is not None
    assert outcome.verdict is None
