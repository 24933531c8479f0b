"""What can happen to a seed, one value for each, with the sentence that people read."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Event, Moment, Severity


@dataclass(frozen=True)
class OfSeed(Moment):
    """Something that happened to the seed at one place: where it stood, and where it stands now.

    Attributes:
        slot: path of the module that it grows on.
        blueprint: what it is made by.
        before: name of its stage until now.
        after: name of its stage from now on; the same where it stays.
        evidence: what its gate was told, or why it goes.
    """

    is_noted, by = False, "kasmina"
    slot: str
    blueprint: str
    before: str
    after: str
    evidence: str


@dataclass(frozen=True)
class SeedMoved(OfSeed):
    """A seed went from one stage to the next."""

    says = "The seed at {slot} ({blueprint}) went from {before} to {after}. {evidence}"


@dataclass(frozen=True)
class SeedGerminated(SeedMoved):
    """A seed is about to be made, and learns apart from now on."""

    kind, is_act = "germinated", True
    says = "A seed germinates at {slot} ({blueprint}). {evidence}"


@dataclass(frozen=True)
class SeedFossilized(SeedMoved):
    """A seed has proved itself, and is about to become a part of the network."""

    kind, is_act = "fossilized", True
    says = "The seed at {slot} ({blueprint}) becomes a part of the network. {evidence}"


@dataclass(frozen=True)
class SeedEnded(SeedMoved):
    """The run is over, and with it growing at this place; a part of the network stays one."""

    says = "Growing at {slot} ({blueprint}) ends with the run; what has become a part of the network stays."


@dataclass(frozen=True)
class PlaceClosed(SeedMoved):
    """The run is over, and nothing has grown at this place."""

    severity = Severity.DETAIL
    says = "Growing at {slot} ({blueprint}) ends with the run; no seed is there."


@dataclass(frozen=True)
class SeedRefused(OfSeed):
    """A seed was not germinated; the network is as it was."""

    severity, is_noted = Severity.PROBLEM, True
    says = "No seed was germinated at {slot} ({blueprint}): {evidence}"


@dataclass(frozen=True)
class SeedWaits(OfSeed):
    """A gate stayed closed."""

    says = "The seed at {slot} ({blueprint}) stays {before}. {evidence}"


@dataclass(frozen=True)
class SeedCulled(OfSeed):
    """A seed has to go."""

    severity, kind = Severity.PROBLEM, "culled"
    says = "The seed at {slot} ({blueprint}) is culled out of {before}: {evidence}"


@dataclass(frozen=True)
class SeedSettled(Moment):
    """A seed is a plain part of the network: its units can be pruned. What the network costs by that."""

    by = "kasmina"
    says = (
        "The seed at {slot} is a plain part of the network by now: {parameters_before:,} to "
        "{parameters_after:,} parameters, {units} more unit(s) that can be pruned."
    )
    slot: str
    parameters_before: int
    parameters_after: int
    units: int


@dataclass(frozen=True)
class SeedLost(Moment):
    """A seed had passed every gate, and the network cannot be looked after with it."""

    severity, by, is_noted = Severity.PROBLEM, "kasmina", True
    says = (
        "The seed at {slot} had become a part of the network, which can no longer be traced with it: {why} "
        "It was taken out again, and training goes on without it; session.rollback(step) goes back before it."
    )
    slot: str
    why: str


@dataclass(frozen=True)
class IsolationViolated(Moment):
    """A seed reached the host."""

    severity, by = Severity.PROBLEM, "kasmina"
    says = "The seed at {slot} violated its isolation ({count} of {limit} times): {what}"
    slot: str
    count: int
    limit: int
    what: str


@dataclass(frozen=True)
class GrowingStopped(Moment):
    """Seeds have reached the host too often: the breaker of growing is open."""

    severity, by = Severity.PROBLEM, "kasmina"
    says = "Nothing germinates any more: {why}"
    why: str


@dataclass(frozen=True)
class NothingLearned(Event):
    """Steps are made, and nobody asks for the loss that seeds learn on."""

    severity, by = Severity.PROBLEM, "kasmina"
    says = (
        "A seed is to learn, and the training loop does not take its loss from session.loss(output, target, "
        "inputs), or growth.loss where there is no session: nothing was learned in {steps} steps."
    )
    steps: int


@dataclass(frozen=True)
class Planned(Moment):
    """A policy wants something to be tried."""

    by = "tamiyo"
    says = "{policy}: {why} Therefore {what}."
    policy: str
    why: str
    what: str


@dataclass(frozen=True)
class PolicyFailed(Event):
    """A policy is taken for saying nothing."""

    severity, by = Severity.PROBLEM, "tamiyo"
    policy: str
    why: str

    @property
    def text(self) -> str:
        return f"The policy {self.policy} {self.why.rstrip('.')}. Nothing is done by it; training goes on."


@dataclass(frozen=True)
class NothingTried(Event):
    """A run has ended in which a policy of ours was to try seeds out, and never did."""

    severity, by = Severity.PROBLEM, "tamiyo"
    says = "No seed was tried by the policy {policy}: {why}."
    policy: str
    why: str


@dataclass(frozen=True)
class PruningRests(Event):
    """What a change costs can only be told while nothing else changes."""

    is_once = True
    says = (
        "While a seed is on its way nothing is analyzed, masked or cut; pruning goes on when the seed is a "
        "plain part of the network, or gone."
    )
