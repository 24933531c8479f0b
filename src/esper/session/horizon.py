"""How long a run will be, where nobody has said it: what its learning-rate schedule tells."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import lr_scheduler as lr

from esper.checkpoint import HasStateDict
from esper.emrakul import Schedule, ScheduleSettings, misfit
from esper.emrakul.cycle import CycleRunner
from esper.nissa import assumed, given_events
from esper.session.log import RunLog
from esper.session.pace import Pace
from esper.session.terms import Terms


class Horizon:
    """Watches for the planned number of epochs until it is known."""

    def __init__(
        self, schedulers: Sequence[HasStateDict], runner: CycleRunner, terms: Terms, log: RunLog
    ) -> None:
        self._schedulers = schedulers
        self._runner = runner
        self._terms = terms
        self._log = log

    def look(self) -> None:
        """Takes the schedule's length after the first epoch, if nobody gave one, or tells what is assumed.

        Where one was given, tells of the first epoch beyond it.
        """
        terms, rules, epoch = self._terms, self._terms.config.pruning, self._log.epoch
        if epoch - 1 == terms.pace.periods:
            self._log.tell(given_events.BeyondPlan(epoch - 1))
        if terms.epochs is not None or rules.target is None or epoch > 1:
            return
        pace, step = terms.pace, self._log.progress.step
        unit, keyword = pace.unit, "epochs" if pace.every_n_steps is None else "steps"
        planned = None if pace.steps is None else pace.periods_after(epoch, step)
        source = f"which is {pace.steps} steps"
        if planned is None:
            steps = None if pace.every_n_steps is None else step
            lengths = (planned_by(one, epoch, steps) for one in self._schedulers)
            planned = next((length for length in lengths if length is not None), None)
            source = "the length of the learning-rate schedule"
        why = "because nobody said how many"
        if planned is not None and (obstacle := misfit(rules.schedule, planned)):
            # Said here, under way, it ends no training: the ramp was asked for, and this length was not.
            why, planned = f"because {planned} {unit}, {source}, leave the ramp no room ({obstacle})", None
        if planned is None:
            self._log.tell(assumed.LengthTaken(rules.schedule.assumed_epochs, why, unit, keyword))
            return
        terms.epochs = planned
        self._runner.strategy = Schedule(rules, planned)
        self._log.tell(assumed.LengthTaken(planned, source, unit, keyword))


def epochs_after(pace: Pace, rules: ScheduleSettings, epoch: int, step: int) -> int | None:
    """Epochs of a run that goes on, from its pace; None if that says nothing, or `look` would not take it.

    Args:
        pace: of the run.
        rules: of its ramp.
        epoch: periods that have ended.
        step: optimizer steps made.
    """
    planned = pace.periods_after(epoch, step)
    is_said = planned is None or pace.periods is not None
    return planned if is_said or not misfit(rules, planned) else None


def planned_by(scheduler: object, epoch: int, step: int | None = None) -> int | None:
    """Epochs until a learning-rate schedule ends, seen after `epoch` of them; None if it does not say.

    It may be stepped after every epoch or after every batch, and shortly before or after the epoch is told.

    Args:
        scheduler: perhaps a learning-rate scheduler.
        epoch: periods that have ended.
        step: optimizer steps in them, where a period is a number of steps; such a schedule says something
            only if it is stepped with the optimizer.
    """
    if not isinstance(scheduler, lr.LRScheduler):
        return None
    total, steps = _length(scheduler), scheduler.last_epoch
    if total is None:
        return None
    if step is not None and (steps < 1 or abs(steps - step) > 1):
        return None  # it counts something else, and nobody knows how many periods that is
    is_by_epoch = step is None and steps <= epoch
    planned = total if is_by_epoch else round(total * epoch / steps)
    return planned if planned > epoch else None


def _length(scheduler: lr.LRScheduler) -> int | None:
    """Steps of a schedule that comes to an end with the training."""
    if isinstance(scheduler, lr.CosineAnnealingLR):
        return int(scheduler.T_max)
    if isinstance(scheduler, lr.OneCycleLR):
        return int(scheduler.total_steps)
    if isinstance(scheduler, lr.PolynomialLR):
        return int(scheduler.total_iters)
    if isinstance(scheduler, lr.SequentialLR):
        # Torch has no public name for its parts.
        last, begun = scheduler._schedulers[-1], scheduler._milestones[-1]  # noqa: SLF001
        rest = _length(last)
        return None if rest is None else int(begun) + rest
    return None
