"""What somebody decides or does, one value for each: the audit of a run holds it before it takes effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from esper.nissa.event import Event, Moment, Severity

# --- The run ---


@dataclass(frozen=True)
class Began(Event):
    """A run begins: with what network and by what settings, whose id every decision names."""

    is_noted, is_act, is_once = False, True, False
    bulk = frozenset({"settings"})
    model: str
    units: int
    parameters: int
    settings_id: str
    settings: Mapping[str, Any]

    @property
    def text(self) -> str:
        target = self.settings.get("pruning", {}).get("target") or {}
        shares = [f"{share:.0%} of the {cost}" for cost, share in target.items() if isinstance(share, float)]
        wish = f" {shares[0]} shall go." if shares else ""
        return f"Attached to {self.model} with {self.parameters:,} parameters, {self.units:,} units.{wish}"


@dataclass(frozen=True)
class Resumed(Event):
    """A run goes on from a checkpoint; its report is as if it had never ended."""

    is_noted, is_once = False, False
    bulk = frozenset({"settings"})
    run: str
    step: int
    epoch: int
    cuts: int
    grown: int
    masked: int
    removed: float
    cost: str
    settings_id: str
    settings: Mapping[str, Any]

    @property
    def text(self) -> str:
        grown = f", {self.grown} seed(s) grown again" if self.grown else ""
        return (
            f"Resumed {self.run} from its checkpoint of step {self.step}, epoch {self.epoch}, which verified "
            f"in full: {self.cuts} cut(s) made and proven again{grown}, {self.masked} unit(s) masked, "
            f"{self.removed:.1%} of the {self.cost} removed."
        )


# --- Decisions and masks ---


@dataclass(frozen=True)
class Decided(Moment):
    """A pruning cycle has ended: `record` is how in short, `outcome` in full, as plain data.

    `outcome` holds the allowance, the plan, every verdict with its numbers, and each finalist with its
    scores and why it goes or stays. `memory` is what the coordinator remembers after it, without the records
    of earlier cycles; earlier runs have none.
    """

    severity, is_noted, is_act, by = Severity.DETAIL, False, True, "emrakul"
    bulk = frozenset({"outcome", "memory"})
    status: str
    reason: str
    settings_id: str
    record: Mapping[str, Any]
    outcome: Mapping[str, Any]
    memory: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        units, finalists = self.record["units"], self.record["finalists"]
        of = f": {units} of {finalists} finalists" if finalists else ""
        return f"{self.status}{of}. {self.reason}"


@dataclass(frozen=True)
class Masked(Moment):
    """Units are masked: how many of those planned, and what share (0..1) of the `cost` is gone by that.

    `flops` of one forward pass and `parameters` are what the network has left; earlier runs tell neither.
    """

    kind, is_act = "mask", True
    units: int
    planned: int
    is_on_probation: bool
    removed_before: float
    removed_after: float
    cost: str
    reason: str
    flops: float | None = None
    parameters: int | None = None

    @property
    def text(self) -> str:
        is_whole = self.units == self.planned
        of = "" if is_whole else f" of {self.planned}"
        probation = " on probation" if self.is_on_probation else ""
        shrunk = (
            "" if is_whole else " That is of the whole plan; the weights have moved on, so it was shrunk."
        )
        before, after = _apart(self.removed_before, self.removed_after)
        removed = f"{before} to {after} of the {self.cost} removed"
        units = "unit" if is_whole and self.units == 1 else "units"
        return f"Masked {self.units}{of} {units}{probation}, {removed}. {self.reason}{shrunk}"


def _apart(one: float, other: float) -> tuple[str, str]:
    """Two shares in as many digits as it takes to tell them apart, within reason."""
    texts = [(f"{one:.{digits}%}", f"{other:.{digits}%}") for digits in range(1, 5)]
    return next((pair for pair in texts if pair[0] != pair[1]), texts[0])


# --- Going back ---


@dataclass(frozen=True)
class MaskNotWritten(Event):
    """A mask cannot be applied, or taken back, because the audit does not take the act."""

    severity = Severity.PROBLEM
    says = "{what} waits for the end of another epoch: {reason}"
    reason: str
    what: str = "A mask"


@dataclass(frozen=True)
class WentBack(Moment):
    """Somebody asked to go back to a checkpoint."""

    kind, is_act, by = "rollback", True, "user"
    says = "Went back to step {to_step} by hand."
    to_step: int


@dataclass(frozen=True)
class Withdrawn(Event):
    """Somebody goes back to a checkpoint from outside of training: later ones are deleted, or set aside.

    Attributes:
        from_step: step of the newest checkpoint before it.
        from_epoch: its epoch.
        to_step: step of the checkpoint that was named.
        to_epoch: its epoch.
        deleted: names of the later checkpoints that are deleted, newest first.
        aside: names of those that are set aside, because nothing vouched for them.
    """

    is_act, is_once, is_noted, by = True, False, False, "user"  # a mark, where training is now
    from_step: int
    from_epoch: int
    to_step: int
    to_epoch: int
    deleted: tuple[str, ...]
    aside: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        aside = f", and set {', '.join(self.aside)} aside" if self.aside else ""
        return (
            f"Went back from step {self.from_step}, epoch {self.from_epoch}, to the checkpoint of step "
            f"{self.to_step}, epoch {self.to_epoch}, which was named, and deleted "
            f"{', '.join(self.deleted) or 'nothing'}{aside}, by hand."
        )


@dataclass(frozen=True)
class Vetoed(Moment):
    """An examiner of the user's own takes back the mask on trial."""

    severity, is_noted, is_act, by = Severity.DETAIL, False, True, "user"
    says = "Vetoed the mask on trial: {why}"
    why: str


@dataclass(frozen=True)
class BreakerClosed(Moment):
    """The operator's word that pruning and growing may go on after failures in a row."""

    severity, is_noted, is_act, by = Severity.DETAIL, False, True, "user"
    says = "Pruning and growing may go on after failures in a row."


@dataclass(frozen=True)
class Commanded(Moment):
    """Somebody has asked, in a signed message, for something to be done; what is done is told on its own.

    Attributes:
        who: account and host, as the message says.
        what: in words.
        key: names the command: with the same one it is never done again. Earlier runs have none.
        content: tells whether another message with that key asks for the same.
        is_rollback: whether it goes back to a checkpoint.
        to_step: of that checkpoint; None: the newest that verifies, or it is no rollback.
    """

    is_noted, is_act, by = False, True, "user"
    says = "{who} asked by message: {what}."
    who: str
    what: str
    key: str = ""
    content: str = ""
    is_rollback: bool = False
    to_step: int | None = None


@dataclass(frozen=True)
class Answered(Moment):
    """How a command has ended, as it is told from now on to whoever sends it again.

    Attributes:
        key: of the command.
        is_done: whether it was done, and the run holds its effect.
        reply: in words.
        number: from 1 on; a checkpoint holds the effects of commands up to the number that it names.
        step: optimizer steps made when it was done.
    """

    severity, is_noted = Severity.DETAIL, False
    key: str
    is_done: bool
    reply: str
    number: int
    step: int

    @property
    def text(self) -> str:
        return f"The command {self.key} is {'done' if self.is_done else 'refused'}. {self.reply}"


# --- Keys ---


@dataclass(frozen=True)
class KeyChanged(Event):
    """Somebody changes the key ring of the run: what becomes of which key, and which one seals then."""

    is_act, is_once, by = True, False, "user"
    says = "Key {key} is {change}; {primary} seals from now on."
    change: str
    key: str
    primary: str


@dataclass(frozen=True)
class SealedAgain(Event):
    """The primary key vouches from now on for manifests that older keys have sealed.

    Attributes:
        key: the primary one.
        manifests: the digest of each, as it was first sealed, by the name of its commit.
    """

    is_act, is_once, by = True, False, "user"
    bulk = frozenset({"manifests"})
    key: str
    manifests: Mapping[str, Any]

    @property
    def text(self) -> str:
        return f"{self.key} vouches from now on for {len(self.manifests)} manifest(s) of older keys."
