"""What can happen to a seed, one value for each, with the sentence that people read."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Event, Moment, Severity


@dataclass(frozen=True)
class SeedMoved(Moment):
    """A seed went from one stage to the next; `evidence` is what its gate was told."""

    says = "The seed at {slot} ({blueprint}) went from {before} to {after}. {evidence}"
    slot: str
    blueprint: str
    before: str
    after: str
    evidence: str


@dataclass(frozen=True)
class SeedRefused(Moment):
    """A seed was not germinated; the network is as it was."""

    severity = Severity.PROBLEM
    says = "No seed was germinated at {slot} ({blueprint}): {evidence}"
    slot: str
    blueprint: str
    evidence: str


@dataclass(frozen=True)
class SeedWaits(Moment):
    """A gate stayed closed."""

    is_noted = False
    says = "The seed at {slot} ({blueprint}) stays {stage}. {evidence}"
    slot: str
    blueprint: str
    stage: str
    evidence: str


@dataclass(frozen=True)
class SeedCulled(Moment):
    """A seed has to go."""

    severity = Severity.PROBLEM
    says = "The seed at {slot} ({blueprint}) is culled out of {before}: {why}"
    slot: str
    blueprint: str
    before: str
    why: str


@dataclass(frozen=True)
class IsolationViolated(Moment):
    """A seed reached the host."""

    severity = Severity.PROBLEM
    says = "The seed at {slot} violated its isolation ({count} of {limit} times): {what}"
    slot: str
    count: int
    limit: int
    what: str


@dataclass(frozen=True)
class NothingLearned(Event):
    """Steps are made, and nobody asks the growth for its loss."""

    severity = Severity.PROBLEM
    says = (
        "A seed is to learn, and the training loop does not take its loss from growth.loss(output, target, "
        "inputs): nothing was learned in {steps} steps."
    )
    steps: int
