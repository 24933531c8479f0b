"""The desk of a run that trains: takes signed commands from other processes, and answers them.

A command is believed or refused when an optimizer step ends, at most once a second, and answered at once.
What it wants done is done where an epoch ends, in the training's own thread, as if the script had called it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from esper.emrakul import MaskState
from esper.errors import ContractError, EsperError
from esper.leyline import BreakerState
from esper.leyline.wire import VERSION, Letter, messages, parsed
from esper.nissa import acts, events
from esper.runs import Mailbox
from esper.workers import Condition

if TYPE_CHECKING:
    from esper.session.session import Session

LOOK_SECONDS = 1.0
_MOST_WAITING = 64
_MOST_ANSWERS = 1024
_MOST_LETTERS = 500
_BREAKERS = {
    BreakerState.OPEN: messages.BREAKER_STATE_OPEN,
    BreakerState.HALF_OPEN: messages.BREAKER_STATE_HALF_OPEN,
    BreakerState.CLOSED: messages.BREAKER_STATE_CLOSED,
}
"""States in words of the messages, the one that is furthest from closed first."""


class Desk:
    """Answers for one session.

    Args:
        session: that does what is asked.
        clock: monotonic seconds.
    """

    def __init__(self, session: Session, clock: Callable[[], float] = time.monotonic) -> None:
        self._session, self._clock = session, clock
        self._mail: Mailbox | None = session.parts.mail
        self._next_look = 0.0
        self._waiting: dict[str, tuple[str, messages.AdaptationCommand]] = {}
        self._answers: dict[str, messages.AdaptationReport] = {}
        """The last answer to every command, by its key: one that comes again is not done again."""
        self._acts: dict[int, Callable[[messages.AdaptationCommand], str]] = {
            messages.ADAPTATION_ACTION_ROLL_BACK: self._roll_back,
            messages.ADAPTATION_ACTION_VETO: self._veto,
            messages.ADAPTATION_ACTION_CLOSE_BREAKER: self._close_breaker,
            messages.ADAPTATION_ACTION_GROW: self._grow,
            messages.ADAPTATION_ACTION_CULL: self._cull,
            messages.ADAPTATION_ACTION_PAUSE_SEED: self._pause,
            messages.ADAPTATION_ACTION_UNPAUSE_SEED: self._unpause,
        }

    def glance(self) -> None:
        """Looks, unless it has looked within the last second: cheap enough for every step."""
        if self._mail is not None and self._clock() >= self._next_look:
            self.look()

    def look(self) -> None:
        """Takes what has arrived."""
        self._next_look = self._clock() + LOOK_SECONDS
        for letter in self._mail.channel.receive() if self._mail is not None else ():
            self._take(letter)

    def carry_out(self) -> None:
        """Does what has been asked for; an error goes to who has asked, and training goes on."""
        self.look()
        while self._waiting:
            key = next(iter(self._waiting))
            sender, command = self._waiting.pop(key)
            try:
                self._session.log.tell(
                    acts.Commanded(self._session.epoch, _plain(command.by), _what(command))
                )
                status, text = messages.COMMAND_STATUS_DONE, self._acts[command.action](command)
            except EsperError as error:
                status, text = messages.COMMAND_STATUS_REFUSED, str(error)
            self._answer(sender, key, status, text)

    def close(self) -> None:
        """The session ends: what still waits is refused, and nobody can ask any more."""
        if self._mail is None:
            return
        text = "The run ended before it came to this."
        for key, (sender, _) in self._waiting.items():
            self._answer(sender, key, messages.COMMAND_STATUS_REFUSED, text)
        self._waiting.clear()
        with suppress(OSError):  # what is left is swept where the run goes on
            self._mail.close()
        self._mail = None

    def _take(self, letter: Letter) -> None:
        try:
            command = parsed(messages.AdaptationCommand, letter.payload)
        except ContractError as error:
            self._send(letter.sender, self._report("", messages.COMMAND_STATUS_REFUSED, str(error)))
            return
        key, refused = command.idempotency_key, self._obstacle(letter, command)
        if key in self._answers:
            self._send(letter.sender, self._answers[key])
        elif refused:
            self._send(letter.sender, self._report(key, messages.COMMAND_STATUS_REFUSED, refused))
        elif command.action == messages.ADAPTATION_ACTION_REPORT:
            self._send(letter.sender, self._report(key, messages.COMMAND_STATUS_DONE, ""))
        else:
            self._waiting[key] = (letter.sender, command)
            text = self._session.log.says("It is done where the epoch ends.")
            self._answer(letter.sender, key, messages.COMMAND_STATUS_WAITING, text)

    def _obstacle(self, letter: Letter, command: messages.AdaptationCommand) -> str:
        """Why a message cannot be taken at all; '' if it can."""
        is_known = command.action in self._acts or command.action == messages.ADAPTATION_ACTION_REPORT
        if letter.kind != messages.AdaptationCommand.DESCRIPTOR.name or not is_known:
            return f"This Esper does not know action {command.action} of a {_plain(letter.kind)}."
        if not command.idempotency_key:
            return "The command has no idempotency key, so nobody could tell that it comes again."
        if len(self._waiting) >= _MOST_WAITING:
            return f"{_MOST_WAITING} commands wait already; ask again in a while."
        return ""

    def _answer(self, sender: str, key: str, status: messages.CommandStatus, text: str) -> None:
        """Tells what became of a command that was taken, and remembers it."""
        report = self._answers[key] = self._report(key, status, text)
        if len(self._answers) > _MOST_ANSWERS:
            self._answers.pop(next(iter(self._answers)))
        self._send(sender, report)

    def _report(self, key: str, status: messages.CommandStatus, text: str) -> messages.AdaptationReport:
        return messages.AdaptationReport(
            version=VERSION, idempotency_key=key, status=status, text=text, state=state_of(self._session)
        )

    def _send(self, sender: str, report: messages.AdaptationReport) -> None:
        if self._mail is not None:
            self._mail.channel.send(sender, report)

    def _roll_back(self, command: messages.AdaptationCommand) -> str:
        wish = command.rollback
        step = self._session.rollback(wish.to_step if wish.HasField("to_step") else None)
        return f"Went back to step {step}."

    def _veto(self, command: messages.AdaptationCommand) -> str:
        self._session.veto(_plain(command.reason) or "asked for by message")
        return "The mask on trial was taken back."

    def _close_breaker(self, _: messages.AdaptationCommand) -> str:
        self._session.close_breaker()
        return "Pruning and growing may go on."

    def _grow(self, command: messages.AdaptationCommand) -> str:
        return str(self._session.grow(command.slot, command.blueprint or "auto"))

    def _cull(self, command: messages.AdaptationCommand) -> str:
        self._session.growing.cull(command.slot, _plain(command.reason) or "Culled by message.")
        return f"The seed at {command.slot} goes."

    def _pause(self, command: messages.AdaptationCommand) -> str:
        self._session.growing.pause(command.slot)
        return f"The seed at {command.slot} is paused."

    def _unpause(self, command: messages.AdaptationCommand) -> str:
        self._session.growing.unpause(command.slot)
        return f"The seed at {command.slot} goes on."


def refusals_to(tell: Callable[[events.MailRefused], None]) -> Callable[[ContractError], None]:
    """Tells of the first message of each kind that was refused, so that a flood fills no audit."""
    told: set[type[ContractError]] = set()

    def refused(error: ContractError) -> None:
        if type(error) not in told:
            told.add(type(error))
            tell(events.MailRefused(str(error)))

    return refused


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


def _what(command: messages.AdaptationCommand) -> str:
    """A command in words, for the audit."""
    action = messages.AdaptationAction.Name(command.action).removeprefix("ADAPTATION_ACTION_")
    words = [action.lower().replace("_", " ")]
    if command.rollback.HasField("to_step"):
        words.append(f"to step {command.rollback.to_step}")
    words += [word for word in (command.slot, command.blueprint, command.reason) if word]
    return _plain(", ".join(words))


def _plain(text: str) -> str:
    """Text of others as logs, terminals and pages can take it."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MOST_LETTERS])
