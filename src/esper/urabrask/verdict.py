"""What the validator answers: checks with their numbers, and one decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Decision(StrEnum):
    """Go or no-go."""

    GO = "go"
    CONDITIONAL_GO = "conditional_go"
    """Apply, on probation: the measurement can rule out neither success nor failure."""
    NO_GO = "no_go"


@dataclass(frozen=True)
class Check:
    """One question with its measured answer.

    Attributes:
        name: which check, in one word.
        passed: whether the plan may go on as far as this check is concerned.
        value: the measured number; None if nothing could be measured.
        limit: the number that `value` was held against; None where the question is yes or no.
        text: the answer in one sentence for people.
    """

    name: str
    passed: bool
    value: float | None
    limit: float | None
    text: str


@dataclass(frozen=True)
class Retention:
    """How much quality a mask costs on held-out data, paired sample by sample.

    Attributes:
        measure: "correctness" (higher is better, points of 1) or "loss" (lower is better, units of the loss).
        before: mean before the plan.
        after: mean after the plan.
        drop: mean paired worsening, positive if worse.
        lower: lower end of the interval around `drop`.
        upper: upper end of the interval.
        limit: largest `drop` allowed.
        samples: number of pairs.
    """

    measure: str
    before: float
    after: float
    drop: float
    lower: float
    upper: float
    limit: float
    samples: int

    @property
    def noise(self) -> float:
        """A quarter of the interval: one standard error of `drop` where it is the usual 95 %."""
        return (self.upper - self.lower) / 4

    @property
    def decision(self) -> Decision:
        """GO if the whole interval is within the limit, NO_GO if all is beyond, CONDITIONAL_GO in between."""
        if self.upper <= self.limit:
            return Decision.GO
        return Decision.CONDITIONAL_GO if self.lower <= self.limit else Decision.NO_GO


@dataclass(frozen=True)
class Verdict:
    """The validator's answer about one mask."""

    decision: Decision
    reason: str
    checks: tuple[Check, ...] = ()
    retention: Retention | None = None
    duration_seconds: float = 0.0

    @property
    def is_accepted(self) -> bool:
        return self.decision is not Decision.NO_GO

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)
