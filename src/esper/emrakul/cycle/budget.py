"""The time that one cycle has, and the breaker that stops pruning after failures in a row."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from esper.emrakul.settings import BudgetSettings
from esper.leyline import Clock


class Phase(StrEnum):
    """What a cycle spends its time on, in order."""

    ANALYSIS = "analysis"
    VALIDATION = "validation"
    COMMIT = "commit"


@dataclass(frozen=True, eq=False)
class Budget:
    """One deadline, split between phases; what a phase leaves over goes to the next."""

    settings: BudgetSettings
    clock: Clock
    start: float

    @classmethod
    def begin(cls, settings: BudgetSettings, clock: Clock) -> Budget:
        """Starts the time now."""
        return cls(settings, clock, clock())

    @property
    def elapsed_seconds(self) -> float:
        return self.clock() - self.start

    def remaining_seconds(self, phase: Phase) -> float:
        """Time until `phase` must have ended; 0 if that moment is over."""
        shares = {
            Phase.ANALYSIS: self.settings.analysis_fraction,
            Phase.VALIDATION: self.settings.analysis_fraction + self.settings.validation_fraction,
            Phase.COMMIT: 1.0,
        }
        return max(shares[phase] * self.settings.deadline_seconds - self.elapsed_seconds, 0.0)

    def is_spent(self, phase: Phase) -> bool:
        return self.remaining_seconds(phase) <= 0


@dataclass(frozen=True)
class Breaker:
    """Counts failures in a row; once open, nothing is pruned until it has cooled down or is closed by hand.

    Attributes:
        failures: failed cycles or rollbacks since the last accepted plan.
        opened_epoch: the epoch at which it opened; None while it is closed.
    """

    failures: int = 0
    opened_epoch: int | None = None

    def is_open(self, epoch: int, settings: BudgetSettings) -> bool:
        return self.opened_epoch is not None and epoch < self.opened_epoch + settings.cooldown_epochs

    def after_failure(self, epoch: int, settings: BudgetSettings) -> Breaker:
        """Counts one failure; a breaker that has cooled down counts from one again."""
        if self.is_open(epoch, settings):
            return replace(self, failures=self.failures + 1)
        failures = 1 if self.opened_epoch is not None else self.failures + 1
        return Breaker(failures, epoch if failures >= settings.max_failures else None)

    def after_success(self, epoch: int, settings: BudgetSettings) -> Breaker:
        """Forgets failures; success while open (a cycle that was under way) does not close it."""
        return self if self.is_open(epoch, settings) else Breaker()

    def closed(self) -> Breaker:
        """The breaker after the operator closed it."""
        return Breaker()
