"""The course that seeds take once they are sown: from stage to stage by gates and steps, culled or kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch.optim import Optimizer

from esper.errors import CheckpointError, IllegalTransitionError
from esper.kasmina.seeds.asked import AskedGates
from esper.kasmina.seeds.bed import SeedBed
from esper.kasmina.seeds.breaker import GrowthBreaker
from esper.kasmina.seeds.followers import Followers
from esper.kasmina.seeds.isolation import GradientIsolationMonitor
from esper.kasmina.seeds.lifecycle import ALIVE, FORWARD, SeedEvent
from esper.kasmina.seeds.owners import HOST
from esper.kasmina.seeds.programs import ProgramCount
from esper.kasmina.seeds.settings import GrowthSettings
from esper.kasmina.seeds.slot import Slot
from esper.kasmina.seeds.world import World
from esper.leyline import SeedLifecycleStage as Stage
from esper.nissa import seed_events

_NORM_EVERY = 10
_WITHOUT_LOSS = 50
"""Steps after which somebody is told that nothing was learned in them."""
_TOO_LATE = (
    "The run ends in {left} epoch(s), and to prove itself in the network it would need {needed}. The network "
    "is as if there had been no seed. Begin earlier, or lower growing.ramp_steps or growing.probation_epochs."
)
_TOO_EARLY = "Growing was ended before it had proved itself."
_UNTAUGHT = (
    "No step of {epochs} epoch(s) took its loss from session.loss(output, target, inputs), or growth.loss "
    "where there is no session, and seeds learn there."
)


class HasScale(Protocol):
    """What a growth asks of a GradScaler."""

    def get_scale(self) -> float: ...


class Course:
    """Leads the seeds of one network.

    Args:
        bed: holds them.
        gates: asks about them.
        monitor: watches their isolation.
        settings: pace and limits.
        scaler: the GradScaler, if there is one.
        alarm: is told before a seed goes that has reached the host too often.
        followers: what would not grow along.
        world: the processes that train the network.

    Attributes:
        breaker: whether anything may germinate.
        programs: what a compiler makes meanwhile.
    """

    def __init__(
        self,
        bed: SeedBed,
        gates: AskedGates,
        monitor: GradientIsolationMonitor,
        settings: GrowthSettings,
        scaler: HasScale | None,
        alarm: Callable[[str], None],
        followers: Followers,
        world: World,
    ) -> None:
        self._alarm, self._followers, self._world = alarm, followers, world
        self._bed, self._gates, self._monitor = bed, gates, monitor
        self._settings, self._scaler = settings, scaler
        self.breaker, self.programs = GrowthBreaker(bed, settings), ProgramCount()
        self._steps: Mapping[Stage, Callable[[Slot], None]] = {
            Stage.TRAINING: self._train,
            Stage.BLENDING: self._blend,
            Stage.SHADOWING: self._shadow,
            Stage.PROBATIONARY: self._train,
            Stage.CULLED: self._fade,
            Stage.FOSSILIZED: self._join,
        }
        self._idle = 0
        self._steps_made = 0
        """By the host in this epoch."""

    def obstacle(self) -> str:
        """Why nothing may germinate just now; '' if something may."""
        return self.breaker.obstacle() or self._followers.why_not()

    def learning(self) -> Iterator[Slot]:
        """Seeds that have a lesson now; those that were germinated begin to learn."""
        self._idle = 0
        for slot in self._bed.living():
            if slot.stage is Stage.GERMINATED:
                self._bed.move(slot, SeedEvent.TRAIN)
            if not slot.track.is_paused:
                yield slot

    def end_epoch(self, epochs_left: int | None) -> None:
        """Asks the gates of all seeds that have come to one; see `Growth.end_epoch`."""
        self._bed.epoch += 1
        has_seeds = self._bed.is_under_way
        contests: defaultdict[int, list[Slot]] = defaultdict(list)
        self._bed.spread_statistics()
        for slot in self._bed.slots.values():
            track = slot.track
            track.epochs += 1
            if why := self._left_alone(slot) or self._too_late(slot, epochs_left):
                self._bed.cull(slot, why)
            elif slot.stage in ALIVE:
                complaint = self._world.first_word(slot.complaint)
                is_rival = slot.stage is Stage.TRAINING and track.contest and not track.is_paused
                if is_rival and not complaint:
                    contests[track.contest].append(slot)
                else:
                    self._decide(slot, complaint)
            elif slot.stage is Stage.EMBARGOED and track.epochs >= self._settings.embargo_epochs:
                self._bed.move(slot, SeedEvent.RESET)
            elif slot.stage is Stage.RESETTING:
                self._reopen(slot)
        self._steps_made = 0
        for rivals in contests.values():
            self._decide_contest(rivals)
        if not self._bed.living():
            self._followers.rest()
        if told := self.programs.end_epoch(self._bed.epoch, has_seeds=has_seeds):
            self._bed.tell(told)

    def _reopen(self, slot: Slot) -> None:
        """Asks whether nothing is left of a seed that was culled."""
        result = self._gates.reset(slot, self._bed.owners)
        slot.track.evidence = slot.track.culled if result.passed else str(result)
        if result.passed:
            self._monitor.forget(slot.path)
            self._bed.move(slot, SeedEvent.REOPEN, str(result))

    def _left_alone(self, slot: Slot) -> str:
        """That a seed which is to learn has had no lesson for as many epochs as a gate may stay closed."""
        track = slot.track
        if track.is_taught:
            track.idle = 0
        elif self._steps_made and not track.is_paused:
            track.idle += 1
        track.is_taught = False
        is_given_up = slot.stage in (Stage.GERMINATED, Stage.TRAINING)
        is_given_up &= track.idle >= self._settings.patience_epochs
        return _UNTAUGHT.format(epochs=track.idle) if is_given_up else ""

    def _too_late(self, slot: Slot, epochs_left: int | None) -> str:
        """Why a seed that only learns is not blended in any more: the network would miss it when it goes."""
        is_apart = slot.stage is Stage.TRAINING and not slot.track.is_paused
        if not is_apart or epochs_left is None or epochs_left < 0 or not self._steps_made:
            return ""
        needed = self._settings.epochs_to_prove(self._steps_made)
        return "" if needed <= epochs_left else _TOO_LATE.format(left=epochs_left, needed=needed)

    def finish(self) -> None:
        """Ends the course of every seed, wherever it is."""
        for slot in self._bed.slots.values():
            if slot.stage in ALIVE and slot.stage is not Stage.CULLED:
                self._bed.cull(slot, _TOO_EARLY, at_once=True)
            elif slot.stage is Stage.CULLED:
                self._bed.move(slot, SeedEvent.EMBARGO)
            if slot.stage is Stage.FOSSILIZED:
                slot.track.joined = self._settings.ramp_steps
                slot.settle()
            if slot.stage in (Stage.FOSSILIZED, Stage.DORMANT):
                self._bed.move(slot, SeedEvent.TERMINATE)

    def detach(self) -> None:
        """Lets go of what is watched."""
        self._followers.rest()

    def pause(self, path: str, *, is_paused: bool) -> None:
        """A seed waits, or goes on."""
        slot, wish = self._bed.slot_at(path), "pause" if is_paused else "unpause"
        if slot.stage not in ALIVE:
            raise IllegalTransitionError(
                f"The slot {path!r} is {slot.stage.name}: there is no seed to {wish}. Nothing was changed."
            )
        slot.track.is_paused = is_paused
        slot.drop()
        slot.settle()

    def before_step(self, optimizer: Optimizer) -> None:
        """The host is about to make a step: of its own parameters only, and no seed reaches it."""
        self._bed.owners.check_step(HOST, optimizer)
        for slot in self._bed.living():
            if slot.is_checked_now(self._settings.check_every):
                own, slot.leak = slot.leak, ""
                if leak := self._world.first_word(own):
                    self._punish(slot, leak, is_seen_here=bool(own))
            if slot.stage is Stage.TRAINING and slot.track.in_stage % _NORM_EVERY == 0:
                gradients = [p.grad for p in self._bed.owners.of_host().values() if p.grad is not None]
                slot.host_norm = torch.nn.utils.get_total_norm(gradients).detach()

    def after_step(self, optimizer: Optimizer) -> None:
        """The host has made a step, and seeds make theirs."""
        if (overflow := getattr(optimizer, "found_inf", None)) is not None and bool(overflow):
            return  # a GradScaler has told a fused optimizer to leave everything as it is
        self._steps_made += 1
        self._idle += bool(self._bed.living())
        if self._idle == _WITHOUT_LOSS:
            self._bed.tell(seed_events.NothingLearned(_WITHOUT_LOSS))
        for slot in self._bed.slots.values():
            slot.step.close()
            if slot.stage in self._steps and slot.layer is not None and not slot.track.is_paused:
                slot.track.in_stage += 1
                self._steps[slot.stage](slot)

    def _decide(self, slot: Slot, complaint: str) -> None:
        """Asks the gate of a seed if it is time, and moves the seed, or lets it wait, or culls it."""
        track, stage = slot.track, slot.stage
        if stage in (Stage.GERMINATED, Stage.CULLED) or track.is_paused:
            return
        if complaint:
            self._bed.cull(slot, complaint, at_once=True)
            return
        if not self._gates.is_due(slot):
            return
        result = self._gates.ask(slot)
        track.evidence = str(result)
        if result.passed:
            self._advance(slot, str(result))
        elif track.looks >= self._settings.patience_epochs or stage is Stage.SHADOWING:
            self._bed.cull(slot, str(result))
        else:
            self._tell_waiting(slot, str(result))

    def _advance(self, slot: Slot, evidence: str) -> None:
        """A gate is open. What follows the network may have begun since the seed germinated."""
        is_asked = slot.stage in (Stage.TRAINING, Stage.PROBATIONARY)
        if is_asked and (why := self._followers.why_not()):
            self._bed.cull(slot, why)
            return
        try:
            self._bed.move(slot, FORWARD[slot.stage], evidence)
        except CheckpointError as error:  # what the audit cannot hold is not done, and is asked again later
            self._tell_waiting(slot, str(error))
            return
        if slot.stage is Stage.FOSSILIZED:
            self.breaker.succeed()

    def _tell_waiting(self, slot: Slot, why: str) -> None:
        stage = slot.stage.name
        way = (slot.path, slot.track.blueprint, stage, stage)
        self._bed.tell(seed_events.SeedWaits(self._bed.epoch, *way, why))

    def _decide_contest(self, rivals: Sequence[Slot]) -> None:
        """Asks G1 of all seeds of a contest at once: the best of those that pass goes on, the others go."""
        if not all(map(self._gates.is_due, rivals)):
            return
        results = [(self._gates.ask(slot), slot) for slot in rivals]
        passed = [(result.gain, slot.path) for result, slot in results if result.passed]
        best = max(passed, default=None)
        for result, slot in results:
            slot.track.evidence = str(result)
            is_last = slot.track.looks >= self._settings.patience_epochs
            if best is not None and slot.path == best[1]:
                self._advance(slot, f"The best of {len(rivals)}. {result}")
            elif best is not None:
                self._bed.cull(slot, f"{best[1]} brings more, {best[0]:.3g}. {result}")
            elif is_last:
                self._bed.cull(slot, str(result))
            else:
                self._tell_waiting(slot, str(result))

    def _punish(self, slot: Slot, leak: str, *, is_seen_here: bool) -> None:
        """A seed has reached the host: too often, and it goes at once."""
        if not is_seen_here:
            self._monitor.hear(slot.path)
        count, limit = self._monitor.violations[slot.path], self._settings.max_violations
        self._bed.tell(seed_events.IsolationViolated(self._bed.epoch, slot.path, count, limit, leak))
        self.breaker.fail()
        if self.breaker.is_open:
            self._alarm(f"The seed at {slot.path} violated its isolation {count} times: {leak}")
            self._bed.cull(slot, f"It violated its isolation {count} times: {leak}", at_once=True)

    def _train(self, slot: Slot) -> None:
        if slot.learner is not None:
            self._bed.owners.check_step(slot.path, slot.learner.optimizer)
            slot.learner.step(1.0 if self._scaler is None else self._scaler.get_scale())
        slot.settle()

    def _blend(self, slot: Slot) -> None:
        slot.track.position = min(slot.track.position + 1, self._settings.ramp_steps)
        self._train(slot)

    def _shadow(self, slot: Slot) -> None:
        if self._gates.is_due(slot):  # nobody learns here: nothing is gained by waiting for an epoch's end
            self._decide(slot, self._world.first_word(slot.complaint))

    def _fade(self, slot: Slot) -> None:
        slot.track.position -= 1
        slot.settle()
        if slot.track.position <= 0:
            self._bed.move(slot, SeedEvent.EMBARGO)

    def _join(self, slot: Slot) -> None:
        slot.track.joined += 1
        slot.settle()
