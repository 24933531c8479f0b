"""What can be asked of a session that trains, and how it says that it stands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from esper.emrakul import MaskState
from esper.leyline import BreakerState
from esper.leyline.wire import VERSION, messages
from esper.session.desk import Act, Desk, plain_text
from esper.workers import Condition

if TYPE_CHECKING:
    from esper.session.session import Session

_BREAKERS = {
    BreakerState.OPEN: messages.BREAKER_STATE_OPEN,
    BreakerState.HALF_OPEN: messages.BREAKER_STATE_HALF_OPEN,
    BreakerState.CLOSED: messages.BREAKER_STATE_CLOSED,
}
"""States in words of the messages, the one that is furthest from closed first."""


def desk_of(session: Session) -> Desk:
    """Where other processes ask a session."""
    parts = session.parts
    return Desk(parts.mail, parts.ledger, parts.log, Commands(session).by_action(), lambda: state_of(session))


class Commands:
    """Does what is asked for, by the same methods that a script calls."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def by_action(self) -> dict[int, Act]:
        """What can be done, by the number of the action."""
        return {
            messages.ADAPTATION_ACTION_ROLL_BACK: self._roll_back,
            messages.ADAPTATION_ACTION_VETO: self._veto,
            messages.ADAPTATION_ACTION_CLOSE_BREAKER: self._close_breaker,
            messages.ADAPTATION_ACTION_GROW: self._grow,
            messages.ADAPTATION_ACTION_CULL: self._cull,
            messages.ADAPTATION_ACTION_PAUSE_SEED: self._pause,
            messages.ADAPTATION_ACTION_UNPAUSE_SEED: self._unpause,
        }

    def _roll_back(self, command: messages.AdaptationCommand) -> str:
        wish = command.rollback
        step = self._session.rollback(wish.to_step if wish.HasField("to_step") else None)
        return f"Went back to step {step}."

    def _veto(self, command: messages.AdaptationCommand) -> str:
        self._session.veto(plain_text(command.reason) or "asked for by message")
        return "The mask on trial was taken back."

    def _close_breaker(self, _: messages.AdaptationCommand) -> str:
        self._session.close_breaker()
        return "Pruning and growing may go on."

    def _grow(self, command: messages.AdaptationCommand) -> str:
        return str(self._session.grow(command.slot, command.blueprint or "auto"))

    def _cull(self, command: messages.AdaptationCommand) -> str:
        self._session.growing.cull(command.slot, plain_text(command.reason) or "Culled by message.")
        return f"The seed at {command.slot} goes."

    def _pause(self, command: messages.AdaptationCommand) -> str:
        self._session.growing.pause(command.slot)
        return f"The seed at {command.slot} is paused."

    def _unpause(self, command: messages.AdaptationCommand) -> str:
        self._session.growing.unpause(command.slot)
        return f"The seed at {command.slot} goes on."


def state_of(session: Session) -> messages.SystemStatePacket:
    """How a run stands, read from what is known anyway: no device is asked."""
    parts = session.parts
    last = session.log.epochs[-1] if session.log.epochs else None
    network, terms = parts.network, parts.terms
    packet = messages.SystemStatePacket(
        version=VERSION,
        run=parts.saving.store.identity.id,
        at_seconds=time.time(),
        epoch=session.epoch,
        step=session.step,
        phase=_phase(session),
        breaker=_breaker(session),
        workers=_workers(session),
        metrics={} if last is None else last.metrics,
        seeds=[slot.message() for slot in parts.growing.slots.values()],
        units=network.anatomy.num_units,
        masked_units=network.masks.num_masked,
        removed_fraction=session.removed_fraction,
        cost=terms.config.pruning.cost,
        parameters=network.anatomy.parameters(network.masks.keep),
    )
    if (newest := parts.saving.newest) is not None:
        packet.checkpoint.version, packet.checkpoint.run = VERSION, packet.run
        packet.checkpoint.step, packet.checkpoint.epoch = newest.step, newest.epoch
        packet.checkpoint.digest, packet.checkpoint.created_seconds = newest.digest, newest.created_seconds
    return packet


def _phase(session: Session) -> messages.PruningPhase:
    parts = session.parts
    if parts.pool is None:
        return messages.PRUNING_PHASE_OFF
    if parts.trial.mask is not MaskState.NONE:
        is_pending = parts.trial.mask is MaskState.PENDING
        return messages.PRUNING_PHASE_PENDING if is_pending else messages.PRUNING_PHASE_ON_TRIAL
    is_busy = parts.runner.is_running
    return messages.PRUNING_PHASE_ANALYZING if is_busy else messages.PRUNING_PHASE_MEASURING


def _breaker(session: Session) -> messages.BreakerState:
    """Of pruning and growing the one that is further from closed."""
    both = {session.parts.runner.coordinator.breaker_state(session.epoch), session.growing.breaker_state}
    worst = next(state for state in _BREAKERS if state in both)
    return _BREAKERS[worst]


def _workers(session: Session) -> messages.HealthStatus:
    """Of all workers the worst; unknown if none has ended a task."""
    pool = session.parts.pool
    conditions = {worker.condition for worker in pool.health()} if pool is not None else set()
    if Condition.FAILING in conditions:
        is_all = conditions == {Condition.FAILING}
        return messages.HEALTH_STATUS_FAILED if is_all else messages.HEALTH_STATUS_DEGRADED
    return messages.HEALTH_STATUS_HEALTHY if Condition.OK in conditions else messages.HEALTH_STATUS_UNKNOWN
