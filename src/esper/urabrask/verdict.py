"""What the validator answers: checks with their numbers, and one decision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


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

    def to_json(self) -> dict[str, Any]:
        """A form that JSON can hold (a number that is not finite as null); `from_json` is its inverse."""
        return {
            "decision": self.decision.value,
            "reason": self.reason,
            "checks": [
                {key: _finite(value) for key, value in asdict(check).items()} for check in self.checks
            ],
            "retention": asdict(self.retention) if self.retention else None,
            "duration_seconds": self.duration_seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Verdict:
        return cls(
            Decision(data["decision"]),
            data["reason"],
            tuple(Check(**check) for check in data["checks"]),
            Retention(**data["retention"]) if data["retention"] else None,
            data["duration_seconds"],
        )


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
