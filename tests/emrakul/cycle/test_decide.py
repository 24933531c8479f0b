"""What is offered to the validator: how much it may cost, and plans beyond the step that was asked for."""

from __future__ import annotations

import pytest

from esper.arrays import BoolArray
from esper.emrakul.cycle.outcome import CycleStatus
from esper.emrakul.settings import Settings
from esper.errors import AnalysisError, AnalysisTimeout
from esper.urabrask import Decision, Verdict
from tests.emrakul.cycle.laboratory import Laboratory


def test_with_few_steps_left_plans_grow_as_long_as_they_surely_hold() -> None:
    lab = Laboratory()
    outcome = lab.run(lab.coordinator())
    assert outcome.plan is not None
    assert outcome.allowance.goal_fraction == pytest.approx(0.5)  # the target
    assert outcome.plan.removed_after >= 0.5
    assert lab.offered == sorted(set(lab.offered))
    assert lab.offered[-1] == outcome.plan.units.size


EARLY = "It has learned nothing."


def test_the_first_mask_waits_while_nothing_is_learned_and_others_will_fit() -> None:
    lab = Laboratory(early=EARLY)
    outcome = lab.decided(can_wait=True)
    assert (outcome.status, outcome.is_early, outcome.reason) == (CycleStatus.SKIPPED, True, EARLY)
    assert outcome.plan is None
    assert lab.calls == ["too early"]


def test_with_no_time_left_or_something_gone_or_where_none_is_wanted_nobody_asks_what_was_learned() -> None:
    late, begun, learned = Laboratory(early=EARLY), Laboratory(early=EARLY), Laboratory()
    assert late.decided().status is CycleStatus.ACCEPTED
    assert begun.decided(can_wait=True, gone=1).status is CycleStatus.ACCEPTED
    asks = Settings.model_validate({"target": {"flops": 0.5}, "schedule": {"min_learned_fraction": 0.0}})
    heedless = Laboratory(early=EARLY, settings=asks)
    assert heedless.decided(can_wait=True).status is CycleStatus.ACCEPTED
    assert {*late.calls, *begun.calls, *heedless.calls} == {"analyze", "validate"}
    outcome = learned.decided(can_wait=True)
    assert (outcome.status, outcome.is_early) == (CycleStatus.ACCEPTED, False)
    assert learned.calls[0] == "too early"


def test_one_that_is_offered_beyond_them_is_half_as_large_again() -> None:
    lab = Laboratory(decisions=[Decision.GO, Decision.GO, Decision.CONDITIONAL_GO])
    allowance = lab.allowance(lab.coordinator())
    outcome = lab.run(lab.coordinator())
    assert outcome.allowance.goal_fraction == pytest.approx(1.5 * allowance.goal_fraction)
    assert outcome.plan is not None
    assert lab.offered[1] == outcome.plan.units.size


@pytest.mark.parametrize("error", [AnalysisError("worker 3 died"), AnalysisTimeout("It took too long.")])
def test_what_was_accepted_stays_so_where_a_larger_plan_cannot_be_measured(error: Exception) -> None:
    class Dying(Laboratory):
        def validate(self, keep: BoolArray, seconds: float, leeway: float = 1.0) -> Verdict:
            if self.offered:
                raise error
            return super().validate(keep, seconds)

    lab = Dying()
    coordinator = lab.coordinator()
    outcome = lab.run(coordinator)
    assert outcome.status is CycleStatus.ACCEPTED
    assert outcome.plan is not None
    assert lab.offered == [outcome.plan.units.size]
    assert coordinator.state.breaker.failures == 0


@pytest.mark.parametrize("decision", [Decision.CONDITIONAL_GO, Decision.NO_GO])
def test_a_larger_plan_that_may_not_hold_leaves_the_one_that_was_accepted(decision: Decision) -> None:
    lab = Laboratory(decisions=[Decision.GO, decision])
    outcome = lab.run(lab.coordinator())
    assert outcome.status is CycleStatus.ACCEPTED
    assert not outcome.is_on_probation
    assert outcome.plan is not None
    assert lab.offered[1] > lab.offered[0] == outcome.plan.units.size


@pytest.mark.parametrize("decision", [Decision.CONDITIONAL_GO, Decision.NO_GO])
def test_after_a_doubt_or_a_refusal_nothing_larger_is_offered(decision: Decision) -> None:
    lab = Laboratory(decisions=[decision])
    lab.run(lab.coordinator())
    assert lab.offered == sorted(lab.offered, reverse=True)


def test_a_plan_may_cost_more_the_earlier_it_is_and_one_that_is_needed_as_much_as_the_first() -> None:
    no = [Decision.NO_GO] * 4
    early, late, last = (Laboratory(decisions=list(no)) for _ in range(3))
    outcomes = [lab.run(lab.coordinator(), epoch) for lab, epoch in ((early, 2), (late, 5), (last, 8))]
    assert early.leeways[0] == pytest.approx(1.8)
    assert late.leeways[0] == pytest.approx(1.5)
    assert last.leeways == [2] * len(last.leeways)
    assert early.leeways[-1] == 2  # a quarter of the plan is less than an even share of what is left
    plan = outcomes[0].plan
    assert plan is not None
    assert plan.leeway == 2


def test_a_plan_beyond_the_step_has_to_hold_without_leeway() -> None:
    lab = Laboratory()
    lab.run(lab.coordinator())
    assert lab.leeways[0] > 1
    assert set(lab.leeways[1:]) == {1}
