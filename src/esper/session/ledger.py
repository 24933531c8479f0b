"""What has become of every command, so that none is done twice, also where the training process was killed.

A command is written down in the audit before it is accepted, and its answer before that is sent. No
checkpoint is sealed while an answer waits to be written, and each holds the number of the last answer. This
tells after a kill what the same command is answered, without anything being done for it:

    the process is killed when             durable is           after a resume the same command is
    ----------------------------------------------------------------------------------------------------
    its letter was taken                   nothing              unknown, and so done, once
    it was written down                    the command          refused: it was not done
    "waiting" was sent                     the command          the same
    it is being done                       the command          the same: the effect was in memory only
    it was done                            the command          the same
    the answer was written down            command and answer   refused: it was done, and is lost
    the answer was sent                    command and answer   the same
    a checkpoint holds the effect          all three            answered as it was then

A rollback has its effect on the disk: it is answered "done" from its beginning on, if the run goes on from
where it was to go. Going back in one process, by whatever cause, changes no answer: it was done.

Why what was not done is not done later: whoever asked had seen the network of then. The run goes on from an
earlier one, perhaps days later; a veto would meet another mask. So he is told, and asks anew if he still
wants it. The last `MOST` commands are known; one that so many others have followed would be done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from esper.errors import CheckpointError
from esper.nissa import Event, acts, mail_events
from esper.session.log import RunLog

MOST = 1024
"""How many commands are known, the newest ones."""
E = TypeVar("E", bound=Event)


class Record(Protocol):
    """The audit, as far as it is needed here."""

    def told(self, event: type[E]) -> list[E]:
        """All events of one class that are in it, oldest first."""
        ...

    def settle(self) -> object:
        """Writes what waits; raises CheckpointError if it cannot."""
        ...


@dataclass(frozen=True)
class Answer:
    """A command, and how it ended.

    Attributes:
        command: as it was written down.
        end: None while it waits.
    """

    command: acts.Commanded
    end: acts.Answered | None = None

    def is_open(self, held: int) -> bool:
        """Whether a checkpoint that holds the effects of `held` commands leaves open how it ended."""
        return self.end is None or (self.end.is_done and self.end.number > held)

    def has_gone_to(self, step: int) -> bool:
        """Whether it is a rollback, and a run that goes on from `step` is where that was to lead."""
        wanted = self.command.to_step if self.end is None else self.end.step
        return self.command.is_rollback and wanted in (None, step)


class Ledger:
    """The commands of one run.

    Args:
        record: where they are written down; `log` tells it.
        log: of the run.
    """

    def __init__(self, record: Record, log: RunLog) -> None:
        self._record, self._log = record, log
        self._known: dict[str, Answer] = {}
        self._number = self._held = self._step = 0
        self._is_taken_up = False
        for command in record.told(acts.Commanded):
            self._remember(Answer(command))
        for end in record.told(acts.Answered):
            self._number = max(self._number, end.number)
            if end.key in self._known:
                self._known[end.key] = replace(self._known[end.key], end=end)

    def find(self, key: str) -> Answer | None:
        """What is known of a command."""
        return self._known.get(key)

    def accept(self, command: acts.Commanded) -> None:
        """Writes a command down; only then may anybody be told that it is accepted.

        Raises:
            CheckpointError: it cannot be written, and is not accepted.
        """
        self._log.tell(command)
        self._remember(Answer(command))

    def end(self, key: str, *, is_done: bool, reply: str) -> None:
        """Writes down how a command ended. It may be told when `is_durable`."""
        progress, self._number = self._log.progress, self._number + 1
        end = acts.Answered(progress.epoch, key, is_done, reply, self._number, progress.step)
        self._known[key] = replace(self._known[key], end=end)
        self._log.tell(end)

    def is_durable(self) -> bool:
        """Whether all that was written down would survive a power cut; what waits is tried again."""
        try:
            self._record.settle()
        except CheckpointError:  # nobody is answered, and the next checkpoint says why
            return False
        return True

    def take_up(self) -> None:
        """Says, once, what became of commands whose run was killed or went on from an earlier checkpoint."""
        if self._is_taken_up:
            return
        self._is_taken_up = True
        for key, answer in self._known.items():
            if not answer.is_open(self._held):
                continue
            is_there, step = answer.has_gone_to(self._step), self._step
            if is_there and answer.end is None:
                self.end(key, is_done=True, reply=f"The run went on from step {step}, where it was to go.")
            elif not is_there:
                was = "done, but not held by a checkpoint" if answer.end is not None else "not done"
                reply = f"It was {was} when the run was stopped, which goes on from step {step}. Ask anew."
                self.end(key, is_done=False, reply=reply)
                self._log.tell(mail_events.CommandLost(answer.command.who, answer.command.what, reply))

    def state(self) -> Any:
        return {"answers": self._number, "step": self._log.progress.step}

    def check(self, state: Mapping[str, Any]) -> None:
        """Whatever was asked for then fits."""

    def load(self, state: Mapping[str, Any]) -> None:
        """The run goes on from a checkpoint that holds the effects of so many commands."""
        self._held, self._step = state["answers"], state["step"]

    def _remember(self, answer: Answer) -> None:
        if answer.command.key:  # earlier runs wrote none down
            self._known[answer.command.key] = answer
            if len(self._known) > MOST:
                self._known.pop(next(iter(self._known)))
