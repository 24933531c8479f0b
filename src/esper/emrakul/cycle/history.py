"""What the cycles of a run decided, one short record each: the memory that outlives the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from esper.emrakul.cycle.outcome import CycleOutcome

MAX_RECORDS = 500
"""Records that are kept; the oldest go first."""


@dataclass(frozen=True)
class CycleRecord:
    """How one cycle ended, in short. The whole of it lies beside its checkpoint, as long as that is kept.

    Attributes:
        key: names the decision (`IdempotencyKey`).
        epoch: number of epochs that had ended.
        stage: stage of the schedule.
        status: `CycleStatus` of the outcome.
        reason: one sentence for people.
        plan_id: the last plan's name; None if there was none.
        level: the most far-reaching level that it touched.
        units: how many units it would remove.
        finalists: how many units were candidates, those that go included.
        removed_before: share of the original cost that was gone before.
        removed_after: share that is gone with the plan.
        predicted_loss: loss rise that was expected of it.
        decision: the last verdict; None if nothing was validated.
        drop: how much worse the network measured under the mask, in the units of the measure.
        measure: what that was, "correctness" or "loss"; None in runs of before.
        offers: how many versions of the plan were validated.
        goal_fraction: share at which the plan would have stopped.
        held: how many finalists stay for each reason.
    """

    key: str
    epoch: int
    stage: str
    status: str
    reason: str
    plan_id: str | None = None
    level: str | None = None
    units: int = 0
    finalists: int = 0
    removed_before: float | None = None
    removed_after: float | None = None
    predicted_loss: float | None = None
    decision: str | None = None
    drop: float | None = None
    measure: str | None = None
    offers: int = 0
    goal_fraction: float = 0.0
    held: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, outcome: CycleOutcome) -> CycleRecord:
        plan, verdict = outcome.plan, outcome.verdict
        cost = None if verdict is None else verdict.retention
        short = cls(
            key=str(outcome.key),
            epoch=outcome.key.epoch,
            stage=outcome.allowance.stage,
            status=outcome.status.value,
            reason=outcome.reason,
            decision=None if verdict is None else verdict.decision.value,
            drop=None if cost is None else cost.drop,
            measure=None if cost is None else cost.measure,
            offers=len(outcome.refused) + (verdict is not None),
            goal_fraction=outcome.allowance.goal_fraction,
        )
        if plan is None:
            return short
        return cls(
            **{
                **asdict(short),
                "plan_id": plan.id,
                "level": plan.level.value,
                "units": int(plan.units.size),
                "finalists": int(plan.units.size + sum(units.size for units in plan.rejected.values())),
                "removed_before": plan.removed_before,
                "removed_after": plan.removed_after,
                "predicted_loss": plan.total_predicted_loss,
                "held": {reason.value: int(units.size) for reason, units in plan.rejected.items()},
            }
        )


History = tuple[CycleRecord, ...]
"""Records, oldest first."""


def extended(history: History, outcome: CycleOutcome) -> History:
    """The history with one more cycle."""
    return (*history, CycleRecord.of(outcome))[-MAX_RECORDS:]
