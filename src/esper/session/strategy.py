"""Does what a policy says when an epoch has ended."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

from esper.emrakul import MaskState, Trial
from esper.errors import CheckpointError, ConfigError, LifecycleError, UnknownPathError
from esper.leyline import BreakerState
from esper.nissa import seed_events
from esper.session.growing import Growing
from esper.session.log import RunLog
from esper.session.terms import Terms
from esper.tamiyo import Command, Cull, Policy, SystemState, TryOut, ask, foreseen, why_not

_PARTS = ("FOSSILIZED", "TERMINATED")
"""Stages of a seed that has become a part of the network."""
_REFUSALS = (CheckpointError, ConfigError, LifecycleError, UnknownPathError)


class Strategy:
    """Asks the policy of one session, if there is one, and acts for it."""

    def __init__(
        self, policy: Policy | None, growing: Growing, trial: Trial, terms: Terms, log: RunLog
    ) -> None:
        self._policy, self._growing, self._trial = policy, growing, trial
        self._terms, self._log = terms, log
        self._prepared: tuple[int, tuple[tuple[str, int], ...]] | None = None
        self._silent: Counter[str] = Counter()
        """Why a policy of ours has tried nothing, by the epochs in which it was so."""

    @property
    def is_asked(self) -> bool:
        """Whether a policy decides about growing."""
        return self._policy is not None

    def begin(self, *, is_new: bool) -> None:
        """Refuses a wish of which nothing can come in this network; tells where nothing can grow at all.

        Args:
            is_new: the run begins; where it goes on, what was cut since may have been a place.

        Raises:
            ConfigError: the blueprint, its options or the places cannot be meant.
        """
        if self._policy is None:
            return
        if why := self._growing.why_never:
            self._log.tell(seed_events.PolicyFailed(type(self._policy).__name__, f"is never asked. {why}"))
            self._policy = None
        elif (wish := foreseen(self._policy)) is not None:
            try:
                pattern = wish.slots if is_new else None
                self._growing.check_wish(pattern, wish.blueprint, wish.options)
            except (ConfigError, UnknownPathError) as error:
                raise ConfigError(f"Nothing can come of the section `strategy`. {error}") from error

    def end_run(self) -> None:
        """Tells if a policy of ours was to try seeds out, and never did."""
        log, policy = self._log, self._policy
        if policy is None or foreseen(policy) is None or log.tries or log.seeds:
            return
        times = (f"in {count} epoch(s) {why}" for why, count in self._silent.items())
        why = "; ".join(times) or "no epoch has ended"
        log.tell(seed_events.NothingTried(type(policy).__name__, why))

    def act(self) -> None:
        """What is to be done now, if anything."""
        if self._policy is None:
            return
        name, state = type(self._policy).__name__, self._state()
        commands, failure = ask(self._policy, state)
        if failure:
            self._log.tell(seed_events.PolicyFailed(name, failure))
        if obstacle := why_not(self._policy, state):
            self._silent[obstacle] += 1
        for command in commands:
            if isinstance(command, TryOut):
                self._log.tries.append(state.epoch)
            self._log.tell(seed_events.Planned(self._log.epoch, name, command.why, _what(command)))
            try:
                self._do(command)
            except _REFUSALS as error:  # the policy's doing, or nothing can be written down
                why = f"asked for what cannot be done: {error}".removesuffix(".")
                self._log.tell(seed_events.PolicyFailed(name, why))
        self._prepare(foreseen(self._policy))

    def _prepare(self, try_out: TryOut | None) -> None:
        """Has the kernels made that the next try will want, once for each network that it may be."""
        growing = self._growing
        if try_out is None or growing.is_under_way or self._trial.mask is not MaskState.NONE:
            return
        here = (
            growing.parameters,
            tuple((path, slot.track.generation) for path, slot in growing.slots.items()),
        )
        if here != self._prepared:
            self._prepared = here
            with suppress(ConfigError, UnknownPathError):  # told when it is tried
                growing.prepare(try_out.slots, try_out.blueprint, **try_out.options)

    def _do(self, command: Command) -> None:
        if isinstance(command, Cull):
            self._growing.cull(command.slot, command.why)
        else:
            self._growing.try_out(command.slots, command.blueprint, **command.options)

    def _state(self) -> SystemState:
        log, terms, growing = self._log, self._terms, self._growing
        epoch = log.epoch
        records = log.records(terms.metric)
        steps = [row.step for row in log.epochs]
        per_epoch = steps[-1] / max(len(steps), 1) if steps else 1.0
        stages = {path: slot.stage.name for path, slot in growing.slots.items()}
        germinated = (row.epoch for row in log.seeds if row.after == "GERMINATED")
        begun = sorted(at for at in {*germinated, *log.tries} if at <= epoch)
        parts = [row for row in log.seeds if row.after == "FOSSILIZED" and row.epoch <= epoch]
        kept = max((row.epoch for row in parts if stages.get(row.slot) in _PARTS), default=0)
        return SystemState(
            epoch=epoch,
            epochs_left=terms.epochs_left(epoch),
            metrics=tuple(record.metric for record in records),
            is_higher_better=terms.higher_is_better,
            is_mask_under_way=self._trial.mask is not MaskState.NONE,
            is_seed_under_way=growing.is_under_way,
            epochs_of_a_seed=terms.config.growing.epochs_needed(per_epoch),
            grown=sum(stage in _PARTS for stage in stages.values()),
            tries=tuple(begun),
            refused_in_row=sum(at >= kept for at in begun),  # before it could, one germinates
            slots=stages,
            is_growing_barred=growing.breaker_state is BreakerState.OPEN,
            parameters=growing.parameters,
            parameters_at_start=terms.origin.parameters,
        )


def _what(command: Command) -> str:
    if isinstance(command, Cull):
        return f"the seed at {command.slot} is to go"
    return f"seeds ({command.blueprint}) are to be tried at {command.slots}"
