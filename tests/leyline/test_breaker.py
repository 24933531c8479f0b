"""The breaker, against a model that remembers every event; and what it does, read from its table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from esper.leyline import decode, encode
from esper.leyline.breaker import MOVES, Breaker, BreakerEvent, BreakerState, Move


@dataclass(frozen=True)
class Limits:
    max_failures: int = 3
    cooldown_epochs: int = 4


LIMITS = Limits()


class BreakerMachine(RuleBasedStateMachine):
    """The model counts failures since the last success, and until when it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.epoch = Breaker(), 1
        self.in_a_row, self.open_until = 0, 0

    def happens(self, event: BreakerEvent) -> None:
        self.breaker = self.breaker.after(event, self.epoch, LIMITS)

    @rule(epochs=st.integers(1, 5))
    def time_passes(self, epochs: int) -> None:
        self.epoch += epochs

    @rule()
    def something_fails(self) -> None:
        self.happens(BreakerEvent.FAILURE)
        if self.epoch >= self.open_until:
            self.in_a_row += 1
            if self.open_until or self.in_a_row == LIMITS.max_failures:
                self.open_until = self.epoch + LIMITS.cooldown_epochs

    @rule()
    def something_succeeds(self) -> None:
        self.happens(BreakerEvent.SUCCESS)
        if self.epoch >= self.open_until:
            self.in_a_row = self.open_until = 0

    @rule()
    def the_operator_closes_it(self) -> None:
        self.happens(BreakerEvent.BY_HAND)
        self.in_a_row = self.open_until = 0

    @rule()
    def it_is_saved_and_loaded(self) -> None:
        self.breaker = decode(Breaker, json.loads(json.dumps(encode(self.breaker))))

    @invariant()
    def it_stands_as_in_the_model(self) -> None:
        is_cool = BreakerState.HALF_OPEN if self.open_until else BreakerState.CLOSED
        wanted = BreakerState.OPEN if self.epoch < self.open_until else is_cool
        assert self.breaker.state(self.epoch, LIMITS) is wanted
        assert bool(self.breaker.obstacle(self.epoch, LIMITS)) == (wanted is BreakerState.OPEN)


TestBreaker = BreakerMachine.TestCase


def test_the_table_says_what_happens_in_every_state() -> None:
    assert set(MOVES) == set(product(BreakerState, BreakerEvent))
    assert all(MOVES[state, BreakerEvent.BY_HAND] is Move.FORGET for state in BreakerState)


def test_after_its_rest_one_failure_opens_it_again_and_one_success_closes_it() -> None:
    breaker = Breaker()
    for epoch in (2, 3, 4):
        breaker = breaker.after(BreakerEvent.FAILURE, epoch, LIMITS)
    assert "open after 3 failures in a row, until epoch 8" in breaker.obstacle(7, LIMITS)
    assert breaker.state(8, LIMITS) is BreakerState.HALF_OPEN
    assert breaker.after(BreakerEvent.SUCCESS, 8, LIMITS) == Breaker()
    assert breaker.after(BreakerEvent.FAILURE, 9, LIMITS) == Breaker(4, 9)
