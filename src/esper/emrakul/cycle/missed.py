"""Why a target was missed, in one sentence with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from esper.emrakul.cycle.coordinator import CoordinatorState
from esper.emrakul.cycle.decide import AT_FLOOR
from esper.emrakul.cycle.history import CycleRecord
from esper.emrakul.cycle.outcome import CycleStatus
from esper.emrakul.plan import Rejection
from esper.emrakul.schedule import Schedule
from esper.emrakul.settings import Target
from esper.errors import AnalysisTimeout

_ADVICE = {
    Rejection.FLOOR: "lower pruning.floors, or the target",
    Rejection.LAYER_BUDGET: "raise pruning.plan.max_layer_fraction, or train longer",
    Rejection.ROUNDING: "lower pruning.plan.round_to, or the target",
    Rejection.LOSS: "raise pruning.plan.allowed_loss_increase, or lower the target",
    Rejection.CONFIDENCE: "give more held-out data (analysis.calibration_samples)",
    Rejection.LEVEL: "let more kinds of units go (pruning.schedule.levels)",
    Rejection.UNMEASURED: "give the analysis more time (pruning.budget.deadline_seconds)",
}
_GENTLER = "train longer before it, allow more loss of quality ({setting})"
_QUICKER = (
    "keep other work off the machine, or let the end of an epoch wait longer for analyses "
    "(analysis.max_wait_seconds)"
)
_PATIENT = f"train longer, {_QUICKER}"
_STEADIER = "train longer between the steps, allow a larger drop (pruning.rollback, {setting})"
_LIMITS = {
    "loss": "validation.min_retention",
    "correctness": "validation.limits and validation.min_retention: the stricter one counts",
}
"""What sets the validator's limit, by what it measures."""
_TRACE = 1e-3
"""Share of a cost that explains no missed target."""
_NEAR = 0.01
"""Share of a cost that is no use to look for where a target is out of reach."""
_STRUCTURE = "lower the target (pruning.target), or change what holds the rest"
_COARSE = "ask for more (pruning.target), or let steps overshoot (pruning.schedule.overshoot_fraction)"
_FEWER = "train for more epochs, or let less be grown (strategy.max_tries, growing.patience_epochs)"
_ANEW = (
    "prune the grown network in a second session, in another run directory (esper.attach(result.model, "
    "...)), or lower the target"
)
_REPAIR = (
    "see `esper audit show` on this run, which holds every error; one that is not of the network's own code "
    "is a fault of Esper: please report it with the network"
)
_LONGER = "train for more epochs, or let the ramp begin earlier (pruning.schedule.start_epoch)"


@dataclass(frozen=True)
class RunEnd:
    """How far a run came, and what is known of what stood in its way.

    Attributes:
        removed: share of the original cost that is gone.
        epoch: epochs that have ended.
        refused: the last plan that was refused: when, and what was told of it.
        taken_back: the last mask that was taken back: likewise.
        masked: share of the original cost that is gone or masked.
        uncut: why what is masked could not be cut; '' if it could.
        unmeasured: the metric, if no epoch has measured it.
        broken: a tensor of the network that holds nan or infinite values; '' if there is none.
        rebuilt: a parameter that is gone, or of another shape than was looked at; '' if there is none.
        late: the epoch that an analysis was about which was still going on when the run ended.
        grown: share of the original cost that seeds have added.
        seeds: first and last epoch of the last time that seeds were on their way, which keep pruning waiting.
        has_stepped: whether the optimizer that is listened to has made a step.
        is_unsaid: whether units stay that only the network's configuration cannot say.
        reach: the largest share of the original cost that could go at all, and what holds the rest; None if
            that is enough.
    """

    removed: float
    epoch: int
    refused: tuple[int, str] | None = None
    taken_back: tuple[int, str] | None = None
    masked: float = 0.0
    uncut: str = ""
    unmeasured: str = ""
    broken: str = ""
    rebuilt: str = ""
    late: int | None = None
    grown: float = 0.0
    seeds: tuple[int, int] | None = None
    has_stepped: bool = True
    is_unsaid: bool = False
    reach: tuple[float, str] | None = None

    @property
    def only_masked(self) -> float:
        """Share that is masked and could not be cut."""
        return max(self.masked - self.removed, 0.0) if self.uncut else 0.0


def why_missed(target: Target, end: RunEnd, schedule: Schedule, state: CoordinatorState) -> str:
    """One sentence about a target that was missed; '' if it was met.

    Args:
        target: what was asked for.
        end: of the run.
        schedule: of the run.
        state: what the coordinator remembers.
    """
    if end.removed >= target.fraction - 1e-9:
        return ""
    why, advice = _structural(end, *_obstacle(end, schedule, state))
    if end.epoch == 0:
        why, advice = "end_epoch() was never called", "call it after every epoch, with the metric"
    elif not end.has_stepped:
        why = "the optimizer that esper.attach was given made no step, and nothing is decided without one"
        advice = "give it the optimizer whose step() the loop calls, or let one do what the loop does by hand"
    elif end.broken or end.rebuilt:
        why, advice = _unsound(end)
    elif end.unmeasured:
        why = f"no epoch measured {end.unmeasured}, and masks are judged by it"
        advice = "report it after every epoch, or let metric= (and higher_is_better=) name what is measured"
    elif end.only_masked > _TRACE:
        # What follows the first sentence says what to do, and is told of the masks.
        first = _clause(end.uncut.partition(". ")[0])
        why = f"another {end.only_masked:.1%} is masked and could not be cut ({first})"
        advice = "see what is told of the masks that stay masks"
    elif end.grown > _TRACE and end.removed + end.grown >= target.fraction - 1e-9:
        why = f"seeds have added {end.grown:.1%}, and a target counts from the network as it was at the start"
        advice = _ANEW
    elif end.grown > _TRACE:
        why = f"{why}; besides, seeds have added {end.grown:.1%}"
    went = f"{end.removed:.1%} of the {target.cost} went instead of {target.fraction:.1%}"
    if end.removed < 0:
        went = (
            f"{-end.removed:.1%} more {target.cost} than at the start instead of {target.fraction:.1%} fewer"
        )
    return f"The target was missed: {went}, because {why}. To get further, {advice}."


def _unsound(end: RunEnd) -> tuple[str, str]:
    """Why nothing was decided about the network as it came to be, and what to do."""
    if end.broken:
        why = f"{end.broken} holds nan or infinite values, and nothing is pruned in a broken network"
        return why, "train with a smaller learning rate, or clip gradients"
    why = f"{end.rebuilt} was rebuilt while the network was trained, and nothing is masked or cut after that"
    return why, "build the network before the run begins, or attach to the rebuilt one with another run_dir"


def _structural(end: RunEnd, why: str, advice: str) -> tuple[str, str]:
    """Where no training reaches the target, that is said first, and what stood in the way of the rest."""
    if end.reach is None or end.grown > _TRACE:
        return why, advice
    most, holds = end.reach
    because = f" ({_clause(holds[:1].lower() + holds[1:])})" if holds else ""
    least = f"at most {most:.1%} can go{because}"
    return (least if most - end.removed <= _NEAR else f"{least}; besides, {why}"), _STRUCTURE


def _obstacle(end: RunEnd, schedule: Schedule, state: CoordinatorState) -> tuple[str, str]:
    """What stood in the way last, and what to do about it."""
    epoch, due = end.epoch, schedule.ramp_at(end.epoch)[1]
    last = state.history[-1] if state.history else None
    gentler, steadier = (advice.format(setting=_setting(state.history)) for advice in (_GENTLER, _STEADIER))
    if epoch < due:
        planned = "" if schedule.epochs is None else f" of {schedule.epochs} that were planned"
        why = f"the run ended after epoch {epoch}{planned} and the ramp leads there in epoch {due}"
        return why, f"{_LONGER}; attach(epochs=...) says how long it is"
    decided = -1 if last is None else last.epoch
    back, refused = end.taken_back, end.refused
    if back is not None and back[0] >= max(decided, -1 if refused is None else refused[0]):
        return f"the last mask did not hold ({_clause(back[1])})", f"{steadier}, or lower the target"
    if refused is not None and refused[0] >= decided:
        said = _clause(refused[1])
        return f"in epoch {refused[0]} {said[:1].lower()}{said[1:]}", f"{gentler}, or lower the target"
    if end.late is not None and end.late <= schedule.last_epoch_at(epoch):
        return f"the run ended before anything came of the analysis of epoch {end.late}", _PATIENT
    if end.seeds is not None and end.seeds[0] >= decided and end.seeds[1] >= schedule.last_epoch_at(epoch):
        first, last_one = end.seeds
        return f"seeds were on their way from epoch {first} to {last_one}, and nothing is pruned then", _FEWER
    if last is None:
        return "the run ended before anything could be decided", _LONGER
    if schedule.epochs is not None and epoch > schedule.epochs:
        why = (
            f"the run was planned for {schedule.epochs} epochs and had {epoch}, and nothing is decided after"
        )
        return f"{why} epoch {schedule.last_epoch_at(epoch)}", "say how long it is (attach(epochs=...))"
    if last.status == CycleStatus.ACCEPTED:
        return _accepted(last, end, schedule.last_epoch_at(epoch), gentler)
    if last.status == CycleStatus.FAILED:
        return _failed(state.history)
    return _ended(last, gentler, is_unsaid=end.is_unsaid)


def _setting(history: Sequence[CycleRecord]) -> str:
    """The settings of the limit that plans were last held against."""
    measures = [record.measure for record in reversed(history) if record.measure is not None]
    return _LIMITS[measures[0] if measures else "correctness"]


def _accepted(last: CycleRecord, end: RunEnd, last_epoch: int, gentler: str) -> tuple[str, str]:
    """Of a run whose last plan was accepted: it was held back, or there was no time for a further one."""
    reason = max(last.held, key=lambda name: last.held[name], default="")
    is_short = last.removed_after is not None and last.removed_after < last.goal_fraction - 1e-9
    if is_short and Rejection.SHRUNK in last.held:  # floors held back others, and did not make it small
        part = f"the validator let only a part of the plan of epoch {last.epoch} go"
        return f"{part}, and no time was left for more", f"{gentler}, or lower the target"
    if is_short and Rejection(reason or Rejection.BUDGET) in _ADVICE:
        return f"the last plan was held back: {_counts(last)}", _ADVICE[Rejection(reason)]
    came = end.removed + end.only_masked
    if last.removed_after is not None and came < last.removed_after - _TRACE and not end.grown:
        part = f"only a part of the plan of epoch {last.epoch} still held when it was applied"
        return f"{part}, and no time was left for more", f"{gentler}, {_QUICKER}"
    return (
        f"every mask is on trial before the next step, and nothing is decided after epoch {last_epoch}",
        _LONGER,
    )


def _failed(history: Sequence[CycleRecord]) -> tuple[str, str]:
    """Of a run whose last analysis failed: longer training would fail in the same way."""
    failed = [record for record in history if record.status == CycleStatus.FAILED]
    first = _clause(failed[0].reason)
    many = "the only analysis" if len(history) == 1 else f"{len(failed)} of {len(history)} analyses"
    why = f"{many} failed, first in epoch {failed[0].epoch} ({first})"
    if failed[-1].reason.startswith(AnalysisTimeout.__name__):
        return why, _ADVICE[Rejection.UNMEASURED]
    return why, _REPAIR


def _ended(last: CycleRecord, gentler: str, *, is_unsaid: bool) -> tuple[str, str]:
    if last.status == CycleStatus.REJECTED:
        advice = f"{gentler}, or lower the target"
        return f"the validator refused the plan of epoch {last.epoch} ({_clause(last.reason)})", advice
    if last.held:
        reason = Rejection(max(last.held, key=lambda name: last.held[name]))
        if reason == Rejection.BUDGET:
            return (
                f"each of the {last.held[reason]} units that could still go takes more than is missing",
                _COARSE,
            )
        return f"no unit could go in epoch {last.epoch}: {_counts(last)}", _ADVICE.get(reason, _LONGER)
    advice = _LONGER
    if last.reason == AT_FLOOR:
        advice = f"{_ADVICE[Rejection.FLOOR]}; esper inspect says what cannot be cut"
        if is_unsaid:
            advice = f"set pruning.plan.configurable to false, or {advice}"
    return f"in epoch {last.epoch} nothing could be decided ({_clause(last.reason)})", advice


def _counts(last: CycleRecord) -> str:
    return ", ".join(f"{count} by {reason}" for reason, count in last.held.items())


def _clause(text: str) -> str:
    return text.rstrip(".")
