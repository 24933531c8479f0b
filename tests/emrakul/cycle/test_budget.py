from __future__ import annotations

import json

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from esper.emrakul.cycle.budget import Breaker, Budget, Phase
from esper.emrakul.settings import BudgetSettings
from esper.leyline import ManualClock, decode, encode


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


class BreakerMachine(RuleBasedStateMachine):
    """Against a model that remembers every event since the breaker last closed."""

    settings_ = BudgetSettings(max_failures=3, cooldown_epochs=4)

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.epoch = 1
        self.in_a_row = 0
        self.open_until = 0

    @rule(epochs=st.integers(1, 5))
    def time_passes(self, epochs: int) -> None:
        was_open = self.epoch < self.open_until
        self.epoch += epochs
        if was_open and self.epoch >= self.open_until:
            self.in_a_row = 0

    @rule()
    def a_cycle_fails(self) -> None:
        self.breaker = self.breaker.after_failure(self.epoch, self.settings_)
        if self.epoch >= self.open_until:
            self.in_a_row += 1
            if self.in_a_row == self.settings_.max_failures:
                self.open_until = self.epoch + self.settings_.cooldown_epochs

    @rule()
    def a_plan_settles(self) -> None:
        self.breaker = self.breaker.after_success(self.epoch, self.settings_)
        if self.epoch >= self.open_until:
            self.in_a_row = 0

    @rule()
    def the_operator_closes_it(self) -> None:
        self.breaker = self.breaker.closed()
        self.in_a_row = self.open_until = 0

    @rule()
    def it_is_saved_and_loaded(self) -> None:
        self.breaker = decode(Breaker, json.loads(json.dumps(encode(self.breaker))))

    @invariant()
    def it_is_open_exactly_while_it_cools_down(self) -> None:
        assert self.breaker.is_open(self.epoch, self.settings_) == (self.epoch < self.open_until)


TestBreaker = BreakerMachine.TestCase
