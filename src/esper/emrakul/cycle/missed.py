"""Why a target was missed, in one sentence with what to do about it."""

from __future__ import annotations

from esper.emrakul.cycle.coordinator import CoordinatorState
from esper.emrakul.cycle.history import CycleRecord
from esper.emrakul.cycle.outcome import CycleStatus
from esper.emrakul.plan import Rejection
from esper.emrakul.schedule import Schedule
from esper.emrakul.settings import Target

_ADVICE = {
    Rejection.FLOOR: "lower pruning.floors, or the target",
    Rejection.LAYER_BUDGET: "raise pruning.plan.max_layer_fraction, or train longer",
    Rejection.ROUNDING: "lower pruning.plan.round_to, or the target",
    Rejection.LOSS: "raise pruning.plan.allowed_loss_increase, or lower the target",
    Rejection.CONFIDENCE: "give more held-out data (analysis.calibration_samples)",
    Rejection.LEVEL: "let more kinds of units go (pruning.schedule.levels)",
    Rejection.UNMEASURED: "give the analysis more time (pruning.budget.deadline_seconds)",
}
_GENTLER = "train longer before it, allow more loss of quality (validation.limits)"
_PATIENT = (
    "train longer, keep other work off the machine, or let the end of an epoch wait longer for analyses "
    "(analysis.max_wait_seconds)"
)
_LONGER = "train for more epochs, or let the ramp begin earlier (pruning.schedule.start_epoch)"


def why_missed(
    target: Target,
    removed: float,
    epoch: int,
    schedule: Schedule,
    state: CoordinatorState,
    refused: tuple[int, str] | None = None,
    *,
    unmeasured: str = "",
    late: int | None = None,
) -> str:
    """One sentence about a target that was missed; '' if it was met.

    Args:
        target: what was asked for.
        removed: share of the original cost that is gone.
        epoch: epochs that have ended.
        schedule: of the run.
        state: what the coordinator remembers.
        refused: the last mask that was refused by the live network, or taken back: when, and why.
        unmeasured: the metric, if no epoch has measured it.
        late: the epoch that an analysis was about which was still going on when the run ended.
    """
    if removed >= target.fraction - 1e-9:
        return ""
    why, advice = _obstacle(epoch, schedule, state, refused, late)
    if epoch == 0:
        why, advice = "end_epoch() was never called", "call it after every epoch, with the metric"
    elif unmeasured:
        why = f"no epoch measured {unmeasured}, and masks are judged by it"
        advice = "give it to end_epoch() or end_step()"
    return (
        f"The target was missed: {removed:.1%} of the {target.cost} went instead of {target.fraction:.1%}, "
        f"because {why}. To get further, {advice}."
    )


def _obstacle(
    epoch: int, schedule: Schedule, state: CoordinatorState, refused: tuple[int, str] | None, late: int | None
) -> tuple[str, str]:
    """What stood in the way last, and what to do about it."""
    due, last = schedule.ramp_at(epoch)[1], state.history[-1] if state.history else None
    if epoch < due:
        return f"the run ended after epoch {epoch} and the ramp leads there in epoch {due}", _LONGER
    if refused is not None and (last is None or refused[0] >= last.epoch):
        advice = "train longer between the steps, allow a larger drop (pruning.rollback, validation.limits)"
        return f"the last mask did not hold ({_clause(refused[1])})", f"{advice}, or lower the target"
    if late is not None and late <= schedule.last_epoch_at(epoch):
        return f"the run ended before anything came of the analysis of epoch {late}", _PATIENT
    if last is None:
        return "the run ended before anything could be decided", _LONGER
    if last.status == CycleStatus.ACCEPTED:
        return _accepted(last, schedule.last_epoch_at(epoch))
    return _ended(last)


def _accepted(last: CycleRecord, last_epoch: int) -> tuple[str, str]:
    """Of a run whose last plan was accepted: it was held back, or there was no time for a further one."""
    reason = max(last.held, key=lambda name: last.held[name], default="")
    is_short = last.removed_after is not None and last.removed_after < last.goal_fraction - 1e-9
    if is_short and Rejection.SHRUNK in last.held:  # floors held back others, and did not make it small
        part = f"the validator let only a part of the plan of epoch {last.epoch} go"
        return f"{part}, and no time was left for more", f"{_GENTLER}, or lower the target"
    if is_short and Rejection(reason or Rejection.BUDGET) in _ADVICE:
        return f"the last plan was held back: {_counts(last)}", _ADVICE[Rejection(reason)]
    return (
        f"every mask is on trial before the next step, and nothing is decided after epoch {last_epoch}",
        _LONGER,
    )


def _ended(last: CycleRecord) -> tuple[str, str]:
    if last.status == CycleStatus.REJECTED:
        advice = f"{_GENTLER}, or lower the target"
        return f"the validator refused the plan of epoch {last.epoch} ({_clause(last.reason)})", advice
    if last.held:
        reason = Rejection(max(last.held, key=lambda name: last.held[name]))
        return f"no unit could go in epoch {last.epoch}: {_counts(last)}", _ADVICE.get(reason, _LONGER)
    return f"in epoch {last.epoch} nothing could be decided ({_clause(last.reason)})", _LONGER


def _counts(last: CycleRecord) -> str:
    return ", ".join(f"{count} by {reason}" for reason, count in last.held.items())


def _clause(text: str) -> str:
    return text.rstrip(".")
