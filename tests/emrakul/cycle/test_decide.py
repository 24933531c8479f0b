"""What is offered to the validator: how much it may cost, and plans beyond the step that was asked for."""

from __future__ import annotations

import pytest

from esper.arrays import BoolArray
from esper.emrakul.cycle.outcome import CycleStatus
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
