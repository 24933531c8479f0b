"""A circuit breaker: what keeps failing is left alone for a while, then tried once, and then trusted again.

The same for whatever can fail again and again: pruning, growing. Time is a number that the caller counts in;
here these are epochs, which a resumed run goes on counting. `MOVES` is all that a breaker does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class BreakerState(StrEnum):
    """Whether something may be done; names as in the messages."""

    CLOSED = "closed"
    """It may."""
    OPEN = "open"
    """It may not, until the breaker has cooled down."""
    HALF_OPEN = "half-open"
    """It may once: how that ends decides."""


class BreakerEvent(StrEnum):
    """What can happen."""

    FAILURE = "failure"
    SUCCESS = "success"
    BY_HAND = "by hand"
    """The operator closes it."""


class Move(StrEnum):
    """What a breaker does."""

    COUNT = "count"
    """One failure more; at the limit it opens."""
    REOPEN = "reopen"
    """One failure more, and it is open from now on."""
    STAY = "stay"
    """One failure more, or a success of something that was under way: as it was."""
    FORGET = "forget"
    """Closed, and nothing has happened."""


MOVES: Mapping[tuple[BreakerState, BreakerEvent], Move] = {
    # as it is,               when this happens,     it does
    (BreakerState.CLOSED, BreakerEvent.FAILURE): Move.COUNT,
    (BreakerState.CLOSED, BreakerEvent.SUCCESS): Move.FORGET,
    (BreakerState.CLOSED, BreakerEvent.BY_HAND): Move.FORGET,
    (BreakerState.OPEN, BreakerEvent.FAILURE): Move.STAY,
    (BreakerState.OPEN, BreakerEvent.SUCCESS): Move.STAY,
    (BreakerState.OPEN, BreakerEvent.BY_HAND): Move.FORGET,
    (BreakerState.HALF_OPEN, BreakerEvent.FAILURE): Move.REOPEN,
    (BreakerState.HALF_OPEN, BreakerEvent.SUCCESS): Move.FORGET,
    (BreakerState.HALF_OPEN, BreakerEvent.BY_HAND): Move.FORGET,
}


class BreakerLimits(Protocol):
    """What opens a breaker, and for how long; sections of settings have both."""

    @property
    def max_failures(self) -> int:
        """So many failures without a success between them open it."""

    @property
    def cooldown_epochs(self) -> int:
        """So long it stays open."""


@dataclass(frozen=True)
class Breaker:
    """Failures without a success between them, and since when it is open; every move makes a new value.

    Attributes:
        failures: since the last success.
        opened_epoch: when it opened last; None while it is closed.
    """

    failures: int = 0
    opened_epoch: int | None = None

    def state(self, epoch: int, limits: BreakerLimits) -> BreakerState:
        """How it stands in an epoch."""
        if self.opened_epoch is None:
            return BreakerState.CLOSED
        is_cool = epoch >= self.opened_epoch + limits.cooldown_epochs
        return BreakerState.HALF_OPEN if is_cool else BreakerState.OPEN

    def after(self, event: BreakerEvent, epoch: int, limits: BreakerLimits) -> Breaker:
        """The breaker when this has happened in that epoch."""
        move, failures = MOVES[self.state(epoch, limits), event], self.failures + 1
        if move is Move.FORGET:
            return Breaker()
        if event is BreakerEvent.SUCCESS:
            return self
        is_opening = move is Move.REOPEN or (move is Move.COUNT and failures >= limits.max_failures)
        return Breaker(failures, epoch if is_opening else self.opened_epoch)

    def obstacle(self, epoch: int, limits: BreakerLimits) -> str:
        """Why nothing may be done now, and what helps; '' if it may."""
        if self.state(epoch, limits) is not BreakerState.OPEN:
            return ""
        until = (self.opened_epoch or 0) + limits.cooldown_epochs
        return (
            f"The breaker is open after {self.failures} failures in a row, until epoch {until}; "
            "close_breaker() closes it."
        )
