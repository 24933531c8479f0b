"""The desk of a run that trains: takes signed commands from other processes, and answers them.

A command is believed or refused when an optimizer step ends, at most once a second, and answered at once.
What it wants done is done where an epoch ends, in the training's own thread, as if the script had called it.
What comes again is answered from the ledger, whoever sends it, also after a kill; see there what when.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from esper.errors import CheckpointError, ContractError, EsperError
from esper.leyline import IdempotencyKey
from esper.leyline.wire import VERSION, Letter, messages, parsed
from esper.nissa import acts, mail_events
from esper.runs import Mailbox, content_of
from esper.session.ledger import Answer, Ledger
from esper.session.log import RunLog

LOOK_SECONDS = 1.0
_MOST_WAITING = 64
_MOST_LETTERS = 500
Act = Callable[[messages.AdaptationCommand], str]
"""Does what a command wants, and says what it did; an EsperError says why it did not."""


class Desk:
    """Takes and answers the commands of one run.

    Args:
        mail: where they arrive; None if nobody can ask.
        ledger: what has become of them.
        log: of the run.
        doing: what can be done, by the number of the action.
        state: how the run stands.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        mail: Mailbox | None,
        ledger: Ledger,
        log: RunLog,
        doing: Mapping[int, Act],
        state: Callable[[], messages.SystemStatePacket],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mail, self._ledger, self._log = mail, ledger, log
        self._doing, self._state, self._clock = doing, state, clock
        self._next_look = 0.0
        self._waiting: dict[str, tuple[str, messages.AdaptationCommand]] = {}
        self._unsaid: list[tuple[str, str]] = []
        """Who is to be answered about which command, when the answer is durable."""

    def glance(self) -> None:
        """Looks, unless it has looked within the last second: cheap enough for every step."""
        if self._mail is not None and self._clock() >= self._next_look:
            self.look()

    def look(self) -> None:
        """Takes what has arrived, and answers what is known."""
        self._next_look = self._clock() + LOOK_SECONDS
        self._ledger.take_up()
        for letter in self._mail.channel.receive() if self._mail is not None else ():
            self._take(letter)
        self._say()

    def carry_out(self) -> None:
        """Does what has been asked for; an error goes to who has asked, and training goes on."""
        self.look()
        while self._waiting:
            key = next(iter(self._waiting))
            sender, command = self._waiting.pop(key)
            try:
                is_done, reply = True, self._doing[command.action](command)
            except EsperError as error:
                is_done, reply = False, str(error)
            self._end(sender, key, is_done=is_done, reply=reply)

    def close(self) -> None:
        """The session ends: what still waits is refused, and nobody can ask any more."""
        if self._mail is None:
            return
        for key, (sender, _) in self._waiting.items():
            self._end(sender, key, is_done=False, reply="The run ended before it came to this.")
        self._waiting.clear()
        with suppress(OSError):  # what is left is swept where the run goes on
            self._mail.close()
        self._mail = None

    def _take(self, letter: Letter) -> None:
        try:
            command = parsed(messages.AdaptationCommand, letter.payload)
        except ContractError as error:
            self._refuse(letter, "", str(error))
            return
        key, known = command.idempotency_key, self._ledger.find(command.idempotency_key)
        if known is not None:
            self._repeat(letter, command, known)
        elif obstacle := self._obstacle(letter, command):
            self._refuse(letter, key, obstacle)
        elif command.action == messages.ADAPTATION_ACTION_REPORT:
            self._send(letter.sender, self._report(key, messages.COMMAND_STATUS_DONE, ""))
        else:
            self._accept(letter, command)

    def _repeat(self, letter: Letter, command: messages.AdaptationCommand, known: Answer) -> None:
        """Answers a command that has come before, and does nothing else."""
        key = command.idempotency_key
        if known.command.content != content_of(command):
            self._refuse(letter, key, f"The key {key} was used for another command: {known.command.what}.")
            return
        if key in self._waiting:  # who sent it first may not be there any more
            self._waiting[key] = (letter.sender, command)
        self._unsaid.append((letter.sender, key))

    def _accept(self, letter: Letter, command: messages.AdaptationCommand) -> None:
        key, rollback = command.idempotency_key, command.rollback
        try:
            self._ledger.accept(
                acts.Commanded(
                    self._log.epoch,
                    plain_text(command.by),
                    _what(command),
                    key,
                    content_of(command),
                    is_rollback=command.action == messages.ADAPTATION_ACTION_ROLL_BACK,
                    to_step=rollback.to_step if rollback.HasField("to_step") else None,
                )
            )
        except CheckpointError as error:
            self._refuse(letter, key, str(error))
        else:
            self._waiting[key] = (letter.sender, command)
            self._unsaid.append((letter.sender, key))

    def _obstacle(self, letter: Letter, command: messages.AdaptationCommand) -> str:
        """Why a message cannot be taken at all; '' if it can."""
        is_known = command.action in self._doing or command.action == messages.ADAPTATION_ACTION_REPORT
        if letter.kind != messages.AdaptationCommand.DESCRIPTOR.name or not is_known:
            return f"This Esper does not know action {command.action} of a {plain_text(letter.kind)}."
        try:
            IdempotencyKey.parse(command.idempotency_key)
        except ContractError as error:
            return f"Nobody could tell that this command comes again: {plain_text(str(error))}"
        if len(self._waiting) >= _MOST_WAITING:
            return f"{_MOST_WAITING} commands wait already; ask again in a while."
        return ""

    def _end(self, sender: str, key: str, *, is_done: bool, reply: str) -> None:
        self._ledger.end(key, is_done=is_done, reply=reply)
        self._unsaid.append((sender, key))
        self._say()

    def _say(self) -> None:
        """Sends answers, if they are durable; otherwise they wait for the next look."""
        if not self._unsaid or not self._ledger.is_durable():
            return
        unsaid, self._unsaid = self._unsaid, []
        for sender, key in unsaid:
            if (known := self._ledger.find(key)) is not None:
                self._send(sender, self._stored(known))

    def _stored(self, known: Answer) -> messages.AdaptationReport:
        key, end = known.command.key, known.end
        if end is None:
            text = self._log.says("It is done where the epoch ends.")
            return self._report(key, messages.COMMAND_STATUS_WAITING, text)
        status = messages.COMMAND_STATUS_DONE if end.is_done else messages.COMMAND_STATUS_REFUSED
        return self._report(key, status, end.reply)

    def _report(self, key: str, status: messages.CommandStatus, text: str) -> messages.AdaptationReport:
        return messages.AdaptationReport(
            version=VERSION, idempotency_key=key, status=status, text=text, state=self._state()
        )

    def _refuse(self, letter: Letter, key: str, why: str) -> None:
        """Says no to what leaves no trace: sent again, it is looked at again."""
        self._send(letter.sender, self._report(key, messages.COMMAND_STATUS_REFUSED, why))

    def _send(self, sender: str, report: messages.AdaptationReport) -> None:
        if self._mail is not None:
            self._mail.channel.send(sender, report)


def refusals_to(tell: Callable[[mail_events.MailRefused], None]) -> Callable[[ContractError], None]:
    """Tells of the first message of each kind that was refused, so that a flood fills no audit."""
    told: set[type[ContractError]] = set()

    def refused(error: ContractError) -> None:
        if type(error) not in told:
            told.add(type(error))
            tell(mail_events.MailRefused(str(error)))

    return refused


def plain_text(text: str) -> str:
    """Text of others as logs, terminals and pages can take it."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MOST_LETTERS])


def _what(command: messages.AdaptationCommand) -> str:
    """A command in words, for the audit."""
    action = messages.AdaptationAction.Name(command.action).removeprefix("ADAPTATION_ACTION_")
    words = [action.lower().replace("_", " ")]
    if command.rollback.HasField("to_step"):
        words.append(f"to step {command.rollback.to_step}")
    words += [word for word in (command.slot, command.blueprint, command.reason) if word]
    return plain_text(", ".join(words))
