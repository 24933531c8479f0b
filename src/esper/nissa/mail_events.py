"""What can happen to messages to a run, one value for each, with the sentence that people read."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Event, Severity


@dataclass(frozen=True)
class MailClosed(Event):
    """The folder for messages cannot be used."""

    severity = Severity.PROBLEM
    says = "No other process can ask this run for anything (`esper ask`): {why}. Training goes on."
    why: str


@dataclass(frozen=True)
class CommandLost(Event):
    """What somebody had asked for by message is not in the network that the run goes on with."""

    severity, is_once = Severity.PROBLEM, False
    says = "{who} asked by message: {what}. {why}"
    who: str
    what: str
    why: str


@dataclass(frozen=True)
class MailRefused(Event):
    """Somebody left a message that is not believed."""

    severity = Severity.PROBLEM
    says = "A message to this run was refused: {why} Others like it are refused, and not told any more."
    why: str
