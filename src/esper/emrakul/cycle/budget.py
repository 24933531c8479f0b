"""The time that one cycle has."""

from __future__ import annotations

from dataclasses import dataclass
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
