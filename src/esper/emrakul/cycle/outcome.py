"""How one pruning cycle ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Any

from esper.anatomy import Anatomy
from esper.arrays import BoolArray
from esper.elesh import Evidence
from esper.emrakul.plan import Plan, Rationale
from esper.emrakul.schedule import Allowance
from esper.leyline import UNSTORED, IdempotencyKey, Via
from esper.urabrask import Decision, Verdict


class CycleStatus(StrEnum):
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
    """The result of one cycle; the network changes only when the caller applies `mask`.

    Attributes:
        status: how it ended.
        key: names the decision; a repeat of the same cycle has the same key.
        reason: one sentence for people.
        allowance: what was allowed.
        plan: the last plan that was made, if any.
        verdict: the verdict about `plan`, if it was validated.
        evidence: what the analysis measured, if it came that far; it is not stored.
        refused: verdicts about earlier, larger versions of the plan.
        rationale: why every finalist of `plan` goes or stays.
        error: traceback of what was raised, for the log.
        is_late: whether time ran out.
        is_early: whether the network had learned too little for units to be told apart.
        duration_seconds: time that the cycle took.
    """

    status: CycleStatus
    key: Annotated[IdempotencyKey, Via(str, str, IdempotencyKey.parse)]
    reason: str
    allowance: Allowance
    plan: Plan | None = None
    verdict: Verdict | None = None
    evidence: Annotated[Evidence | None, UNSTORED] = None
    refused: tuple[Verdict, ...] = ()
    rationale: Rationale | None = None
    error: str | None = None
    is_late: bool = False
    is_early: bool = False
    duration_seconds: float = 0.0

    @staticmethod
    def __stored_before__(stored: Mapping[str, Any]) -> Mapping[str, Any]:
        """Runs stored the plan's name beside the plan at first."""
        return {key: value for key, value in stored.items() if key != "plan_id"}

    @property
    def is_on_probation(self) -> bool:
        """Accepted, but the measurement could not rule out that it costs too much."""
        return self.verdict is not None and self.verdict.decision is Decision.CONDITIONAL_GO

    @property
    def mask(self) -> BoolArray | None:
        """Units that are left with the accepted plan, shape [units]; None where none was accepted."""
        return self.plan.keep if self.plan and self.status is CycleStatus.ACCEPTED else None

    def explained(self, anatomy: Anatomy, seconds: float) -> CycleOutcome:
        """The same, with the time that it took and why every finalist goes or stays."""
        rationale = None
        if self.plan is not None and self.evidence is not None:
            rationale = Rationale.of(self.plan, self.evidence, anatomy)
        return replace(self, rationale=rationale, duration_seconds=seconds)

    @property
    def is_conclusive(self) -> bool:
        """Decided by measurements that came to their end: the same request would give the same again."""
        return self.plan is not None and self.status is not CycleStatus.FAILED and not self.is_late
