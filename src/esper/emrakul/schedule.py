"""When how much may go: a ramp to a target, or stages with caps; and how rejections slow it down."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from esper.cost import CostName
from esper.emrakul.settings import Settings, Target
from esper.emrakul.stages import ScheduleSettings, Stage
from esper.errors import ConfigError
from esper.leyline import Level


@dataclass(frozen=True)
class ScheduleState:
    """What the schedule remembers from cycle to cycle; stored in every checkpoint.

    Attributes:
        pace: size of the next step as a share of the scheduled one, above 0 to 1.
        accepted: plans accepted so far.
        rejected: plans rejected or rolled back so far.
        target_fraction: where the ramp leads, if `round_to` makes that more than the target.
        refusals_in_row: plans refused or rolled back since one last proved itself.
        resting_until: last epoch in which nothing is asked, after a refusal.
        cycle_epochs: epochs from one accepted plan to the next analysis, as the last ones took.
    """

    pace: float = 1.0
    accepted: int = 0
    rejected: int = 0
    target_fraction: float = 0.0
    refusals_in_row: int = 0
    resting_until: int = 0
    cycle_epochs: int = 2

    def after_acceptance(self, settings: ScheduleSettings) -> ScheduleState:
        return replace(self, pace=min(1.0, self.pace / settings.backoff), accepted=self.accepted + 1)

    def after_rejection(self, settings: ScheduleSettings, epoch: int) -> ScheduleState:
        """The state after a no-go, a rollback or instability: smaller steps, and longer and longer rests.

        Args:
            settings: how much smaller, and the longest rest.
            epoch: of the checkpoint that the plan was about.
        """
        # 1, 2, 4 epochs and so on, up to the longest rest.
        rest = min(2**self.refusals_in_row, settings.max_rest_epochs)
        return replace(
            self,
            pace=max(settings.min_pace, self.pace * settings.backoff),
            rejected=self.rejected + 1,
            refusals_in_row=self.refusals_in_row + 1,
            resting_until=max(self.resting_until, epoch + rest),
        )

    def after_success(self) -> ScheduleState:
        """The state after an applied plan has proved itself."""
        return replace(self, refusals_in_row=0)


@dataclass(frozen=True)
class Allowance:
    """What one cycle may remove, in shares of the original cost.

    Attributes:
        cost: what the shares count.
        goal_fraction: cumulative share at which the plan stops adding units.
        limit_fraction: cumulative share that it never passes.
        levels: what may be removed; empty means nothing.
        stage: the stage of the schedule, for people.
        reason: why this much, or why nothing.
        end_fraction: cumulative share at the end of the way that this is a step of; None if there is none.
        progress: share of that way that is due by now, 0 to 1.
        steps_left: how many steps still fit into the run, this one included; 1 or more.
        steps_paid: how many the budget of the run pays for; None if nobody counts.
    """

    cost: CostName
    goal_fraction: float
    limit_fraction: float
    levels: tuple[Level, ...]
    stage: str
    reason: str
    end_fraction: float | None = None
    progress: float = 1.0
    steps_left: float = 1
    steps_paid: float | None = None

    @classmethod
    def at_once(cls, target: Target, levels: tuple[Level, ...]) -> Allowance:
        """All that a target asks for, without a schedule."""
        return cls(target.cost, target.fraction, 1.0, levels, "at once", "asked for")

    @classmethod
    def nothing(cls, cost: CostName, removed: float, stage: str, reason: str) -> Allowance:
        """No unit may go: `removed` stays the share that is gone."""
        return cls(cost, removed, removed, (), stage, reason)

    @property
    def is_open(self) -> bool:
        return bool(self.levels)

    def towards(self, end: float | None, removed: float, pace: float, rules: ScheduleSettings) -> Allowance:
        """The step of the same moment on the way to another end.

        Args:
            end: cumulative share that is gone there; None changes nothing, nor is there another end where
                this is no step of a way.
            removed: share that is gone already.
            pace: size of the step as a share of the scheduled one.
            rules: how large steps may be.
        """
        if end is None or self.end_fraction is None:
            return self
        # What should be gone by now on the way to that end: by the ramp, and by an even share of what is
        # left. Time may force large steps. The budget may only ask for them.
        even = (end - removed) / self.steps_left
        paid = self.steps_left if self.steps_paid is None else max(math.floor(self.steps_paid), 1)
        due = max(end * self.progress, removed + even, removed + (end - removed) / paid)
        here = replace(self, end_fraction=end)
        if end <= removed + _EXACT or due <= removed + _EXACT:
            why = f"{removed:.1%} is gone, {end * self.progress:.1%} is due."
            return replace(here, goal_fraction=removed, limit_fraction=removed, levels=(), reason=why)
        if due - removed < min(end / rules.max_steps, end - removed) - _EXACT:
            why = f"{removed:.1%} is gone, {due:.1%} is due: too little for an analysis."
            return replace(here, goal_fraction=removed, limit_fraction=removed, levels=(), reason=why)
        # What is missing, at most one step, slowed down by refusals as long as time is left for more steps.
        pace = max(pace, 1 / self.steps_left)
        goal = removed + min(due - removed, max(rules.max_step_fraction, even)) * pace
        limit = min(goal + rules.overshoot_fraction, 1.0)
        why = (
            f"{due:.1%} of the {self.cost} is due, {removed:.1%} is gone, pace {pace:g}, "
            f"{self.steps_left:g} more steps fit."
        )
        return replace(here, goal_fraction=goal, limit_fraction=limit, reason=why)

    def ahead(self, removed: float, most: float) -> Allowance | None:
        """Half as large a step again, where few are left: what later ones must do has less time to heal.

        Args:
            removed: share that is gone already.
            most: what one step may remove.

        Returns:
            None where enough steps are left, where this is the last one, or where it leads to the end.
        """
        end, few = self.end_fraction, 1 < self.steps_left <= _FEW_STEPS
        if end is None or not few or not self.is_open or self.goal_fraction >= end - _EXACT:
            return None
        goal = min(end, self.goal_fraction + (self.goal_fraction - removed) / 2, removed + most)
        if goal <= self.goal_fraction + _EXACT:
            return None
        limit = min(goal + self.limit_fraction - self.goal_fraction, 1.0)
        return replace(self, goal_fraction=goal, limit_fraction=limit)


class Strategy(Protocol):
    """Says after every epoch how much may go; the schedule of a run is one."""

    @property
    def cost(self) -> CostName:
        """What its shares count."""
        ...

    def allowed(
        self, epoch: int, state: ScheduleState, removed_fraction: float, affordable: float = math.inf
    ) -> Allowance:
        """What may be removed after `epoch`.

        Args:
            epoch: number of epochs that have ended.
            state: what earlier cycles led to.
            removed_fraction: share of the original cost that is gone already.
            affordable: how many more cycles the budget of the run pays for, 1 or more.
        """
        ...

    def steps_left(self, epoch: int, state: ScheduleState) -> int:
        """How many steps still fit, with the one decided on after `epoch`: 0 if that is too late."""
        ...

    def is_last(self, epoch: int) -> bool:
        """Whether nothing is decided about any later epoch: who waits now has waited too long."""
        ...


def planned_epochs(epochs: int | None, rules: ScheduleSettings, epoch: int) -> int:
    """Epochs that a run is planned for: those that were given, or what can be assumed after `epoch`."""
    return max(rules.assumed_epochs, math.ceil(1.5 * epoch)) if epochs is None else epochs


def ramp_of(rules: ScheduleSettings, epochs: int | None, epoch: int) -> tuple[int, int]:
    """First and last epoch of the ramp of a run of `epochs`, as it is planned after `epoch`."""
    length = planned_epochs(epochs, rules, epoch)
    start = rules.start_epoch or max(1, round(rules.start_fraction * planned_epochs(epochs, rules, 0)))
    # A mask is applied an epoch after its analysis, and then comes the quiet.
    before_quiet = length - math.ceil(rules.quiet_fraction * length) - 1
    return start, rules.end_epoch or max(start, min(round(rules.end_fraction * length), before_quiet))


def misfit(rules: ScheduleSettings, epochs: int | None) -> str:
    """Why the ramp has no room in a run of `epochs`, in a clause about it; '' if it has."""
    start, end = ramp_of(rules, epochs, 0)
    if start <= end and (epochs is None or end <= epochs):
        return ""
    return f"it would run from epoch {start} to {end} in a run of {epochs or 'unknown'} epochs"


class Schedule:
    """The schedule of one run. Epochs count from 1: epoch n is asked about when the n-th epoch has ended."""

    def __init__(self, settings: Settings, epochs: int | None = None) -> None:
        """Fixes the schedule.

        Args:
            settings: target or stages, and the shape of the ramp.
            epochs: planned number of epochs; None if nobody knows.

        Raises:
            ConfigError: the ramp ends before it starts, or after the run.
        """
        if epochs is not None and epochs < 1:
            raise ConfigError(
                f"A run of {epochs} epochs cannot be planned; give the number of epochs, or None."
            )
        if why := misfit(settings.schedule, epochs):
            raise ConfigError(
                f"The ramp has no room: {why}. Choose start_epoch <= end_epoch <= planned epochs, or leave "
                "them out."
            )
        self.epochs = epochs
        self._settings = settings
        self._rules = settings.schedule
        self._stages = self._scaled_stages()

    @property
    def cost(self) -> CostName:
        """What its shares count."""
        return self._settings.cost

    def allowed(
        self, epoch: int, state: ScheduleState, removed_fraction: float, affordable: float = math.inf
    ) -> Allowance:
        """What may be removed after `epoch`: see `Strategy`."""
        target = self._settings.target
        if epoch <= state.resting_until and not (target and self._is_short(state)):
            why = f"Nothing is asked until epoch {state.resting_until} has ended, after a refusal."
            return self._nothing("rest", why, removed_fraction)
        if target is not None:
            end = max(target.fraction, state.target_fraction)
            return self._towards_target(end, epoch, state, removed_fraction, affordable)
        if self._settings.staged:
            return self._within_stage(epoch, state, removed_fraction)
        return self._nothing("off", "Pruning is off: set a target, or staged.", removed_fraction)

    def steps_left(self, epoch: int, state: ScheduleState) -> int:
        """How many steps still fit, with the one decided on after `epoch`: 0 if that is too late.

        The last one does not wait until the trial of the one before is over: see `is_last`.
        """
        last = self.last_epoch_at(epoch)
        return 1 + math.ceil((last - epoch) / state.cycle_epochs) if epoch <= last else 0

    def _is_short(self, state: ScheduleState) -> bool:
        """Whether after the rest less than two steps would fit: then there is no time for one."""
        return self.steps_left(state.resting_until + 1, state) < 2

    def _towards_target(
        self, target: float, epoch: int, state: ScheduleState, removed: float, affordable: float
    ) -> Allowance:
        start, end = self.ramp_at(epoch)
        if epoch < start:
            return self._nothing("before", f"The ramp starts at epoch {start}.", removed)
        left = self.steps_left(epoch, state)
        if not left:
            why = f"Nothing is decided after epoch {self.last_epoch_at(epoch)}: the network recovers."
            return self._nothing("quiet", why, removed)
        # The first epoch of the ramp is a step as well: from 1/n to 1.
        share = progress((epoch - start + 1) / (end - start + 1), self._rules)
        paid = affordable if affordable < left else None
        step = Allowance(
            self.cost, removed, removed, self._rules.levels, "ramp", "", target, share, left, paid
        )
        return step.towards(target, removed, state.pace, self._rules)

    def _within_stage(self, epoch: int, state: ScheduleState, removed: float) -> Allowance:
        # Which stage this epoch lies in, where that begins, and the highest cap of those before.
        before, begin = 0.0, 1
        for stage in self._stages:
            if epoch < begin + stage.epochs:
                break
            before, begin = max(before, stage.cumulative_fraction), begin + stage.epochs
        else:
            return self._nothing("over", "All stages are over.", removed)
        if not stage.levels:
            return self._nothing(stage.name, f"The {stage.name} stage only watches.", removed)
        share = progress((epoch - begin + 1) / stage.epochs, self._rules)
        # From the earlier cap to the stage's own, as its time goes by.
        cap = before + max(stage.cumulative_fraction - before, 0.0) * share
        step = min(cap - removed, stage.cycle_fraction) * state.pace
        if step <= _EXACT:
            return self._nothing(stage.name, f"{removed:.2%} is gone, the cap is {cap:.2%}.", removed)
        reason = f"Cap {cap:.2%}, {removed:.2%} is gone, at most {stage.cycle_fraction:.0%} in one cycle."
        goal = removed + step
        return Allowance(self.cost, goal, goal, stage.levels, stage.name, reason)

    def _nothing(self, stage: str, reason: str, removed: float) -> Allowance:
        return Allowance.nothing(self.cost, removed, stage, reason)

    def is_last(self, epoch: int) -> bool:
        """Whether nothing is decided about any later epoch, with a target."""
        return self._settings.target is not None and epoch == self.last_epoch_at(epoch)

    def length_at(self, epoch: int) -> int:
        """Epochs that are planned for: those that were given, or what can be assumed after `epoch`."""
        return planned_epochs(self.epochs, self._rules, epoch)

    def ramp_at(self, epoch: int) -> tuple[int, int]:
        """First and last epoch of the ramp, as it is planned after `epoch`."""
        return ramp_of(self._rules, self.epochs, epoch)

    def last_epoch_at(self, epoch: int) -> int:
        """The last epoch about whose network anything is decided, as it is planned after `epoch`."""
        epochs = self.length_at(epoch)
        return max(self.ramp_at(epoch)[1], epochs - math.ceil(self._rules.quiet_fraction * epochs) - 1)

    def _scaled_stages(self) -> tuple[Stage, ...]:
        stages = self._rules.stages
        if self.epochs is None or not self._rules.scale_stages or not stages:
            return stages
        # Not lengths but ends are rounded, so that they add up to the run; a stage without an epoch drops
        # out.
        total = sum(stage.epochs for stage in stages)
        ends = [
            round(sum(s.epochs for s in stages[: n + 1]) * self.epochs / total) for n in range(len(stages))
        ]
        lengths = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
        return tuple(
            stage.model_copy(update={"epochs": length})
            for stage, length in zip(stages, lengths, strict=True)
            if length
        )


_FEW_STEPS = 3
"""With so many steps left, or fewer, one that has room does part of the next one."""

_EXACT = 1e-9
"""Shares that differ by less are the same share."""


def progress(time: float, settings: ScheduleSettings) -> float:
    """Progress of a ramp at a share of its time: rises from 0 at 0 to 1 at 1."""
    if time >= 1:
        return 1.0
    time = max(time, 0.0)
    if settings.shape == "linear":
        return time
    # 1 - exp(-rate x time), scaled to end at 1.
    if settings.shape == "exponential":
        return math.expm1(-settings.rate * time) / math.expm1(-settings.rate)
    # Steep at first and flat at the end, for powers above 1.
    return 1 - float((1 - time) ** settings.power)
