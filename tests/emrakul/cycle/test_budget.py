from __future__ import annotations

import pytest

from esper.emrakul.cycle.budget import Budget, Phase
from esper.emrakul.settings import BudgetSettings
from esper.leyline import ManualClock


def test_the_deadline_is_split_seventy_twenty_ten() -> None:
    budget = Budget.begin(BudgetSettings(), ManualClock(1000.0))
    assert [budget.remaining_seconds(phase) for phase in Phase] == pytest.approx([210, 270, 300])


def test_time_that_a_phase_leaves_over_goes_to_the_next() -> None:
    clock = ManualClock()
    budget = Budget.begin(BudgetSettings(), clock)
    clock.advance(10)
    assert budget.remaining_seconds(Phase.VALIDATION) == pytest.approx(260)


def test_a_phase_is_spent_when_its_end_has_come_and_time_does_not_go_below_zero() -> None:
    clock = ManualClock()
    budget = Budget.begin(BudgetSettings(deadline_seconds=10), clock)
    clock.advance(8)
    assert budget.is_spent(Phase.ANALYSIS)
    assert not budget.is_spent(Phase.VALIDATION)
    clock.advance(100)
    assert budget.remaining_seconds(Phase.COMMIT) == 0
