"""How one pruning cycle ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from esper.elesh import Evidence
from esper.emrakul.plan import Plan
from esper.emrakul.schedule import Allowance
from esper.leyline import IdempotencyKey
from esper.urabrask import Decision, Verdict


class Status(StrEnum):
    """What became of a cycle."""

    ACCEPTED = "accepted"
    """There is a plan, and the validator said go."""
    SKIPPED = "skipped"
    """Nothing was to be done, or time ran out."""
    REJECTED = "rejected"
    """The validator refused every version of the plan."""
    FAILED = "failed"
    """Analysis or validation raised an error; no pruning this cycle."""


@dataclass(frozen=True, eq=False)
class CycleOutcome:
    """The result of one cycle; the network changes only when the caller applies an accepted `plan.keep`.

    Attributes:
        status: how it ended.
        key: names the decision; a repeat of the same cycle has the same key.
        reason: one sentence for people.
        allowance: what was allowed.
        plan: the last plan that was made, if any.
        verdict: the verdict about `plan`, if it was validated.
        evidence: what the analysis measured, if it came that far; not part of the JSON form.
        refused: verdicts about earlier, larger versions of the plan.
        error: traceback of what was raised, for the log.
        is_late: whether time ran out.
        duration_seconds: time that the cycle took.
    """

    status: Status
    key: IdempotencyKey
    reason: str
    allowance: Allowance
    plan: Plan | None = None
    verdict: Verdict | None = None
    evidence: Evidence | None = None
    refused: tuple[Verdict, ...] = ()
    error: str | None = None
    is_late: bool = False
    duration_seconds: float = 0.0

    @property
    def is_on_probation(self) -> bool:
        """Accepted, but the measurement could not rule out that it costs too much."""
        return self.verdict is not None and self.verdict.decision is Decision.CONDITIONAL_GO

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status.value,
            "key": str(self.key),
            "reason": self.reason,
            "allowance": self.allowance.to_json(),
            "plan": self.plan.to_json() if self.plan else None,
            "plan_id": self.plan.id if self.plan else None,
            "verdict": self.verdict.to_json() if self.verdict else None,
            "refused": [verdict.to_json() for verdict in self.refused],
            "error": self.error,
            "is_late": self.is_late,
            "duration_seconds": self.duration_seconds,
        }
