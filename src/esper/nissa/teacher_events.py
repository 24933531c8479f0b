"""What can happen to a teacher, one value for each, with the sentence that people read."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Event, Moment, Severity


@dataclass(frozen=True)
class NothingTaught(Event):
    """Somebody is to teach, and nobody asks for the loss of it.

    Attributes:
        why: it should be taught, half a sentence.
    """

    severity = Severity.PROBLEM
    says = (
        "{why}, and the training loop does not call session.loss(output, target, inputs), so nothing was "
        "taught."
    )
    why: str


@dataclass(frozen=True)
class TeacherLost(Event):
    """The checkpoint that was to teach cannot be read."""

    severity = Severity.PROBLEM
    says = (
        "The checkpoint from before the first mask was to teach (pruning.recovery.distill), and nothing more "
        "is taught, because it cannot be read: {reason} Training goes on with its own loss."
    )
    reason: str


@dataclass(frozen=True)
class TeacherJoined(Event):
    """A teacher begins: what it knows beside who learns, on the same held-out data, and what it takes.

    Attributes:
        network: class of the teacher.
        digest: of its weights.
        parameters: their number.
        weight: its share of the loss.
        loss: its own.
        own_loss: of the network that learns.
        weight_bytes: what it holds in memory all the time.
        is_offloaded: that is the memory of the host, and on the device it is only while it is asked.
        peak_bytes: most memory that a step on the sample takes without it.
        taught_peak_bytes: and with it.
    """

    severity = Severity.NEWS
    network: str
    digest: str
    parameters: int
    weight: float
    loss: float
    own_loss: float
    weight_bytes: int
    is_offloaded: bool
    peak_bytes: int
    taught_peak_bytes: int

    @property
    def text(self) -> str:
        where = ", on the host while it is not asked" if self.is_offloaded else ""
        peaks = f"{self.peak_bytes / 1e6:,.1f} to {self.taught_peak_bytes / 1e6:,.1f} MB"
        return (
            f"{self.network} ({self.parameters:,} parameters, {self.digest}) teaches with {self.weight:.0%} "
            f"of the loss. On held-out data its loss is {self.loss:.4g}, that of the network "
            f"{self.own_loss:.4g}. Its weights take {self.weight_bytes / 1e6:,.1f} MB{where}; the peak of a "
            f"step goes from {peaks}."
        )


@dataclass(frozen=True)
class TeacherKnowsLess(TeacherJoined):
    """A teacher begins that is no better than who learns."""

    severity = Severity.PROBLEM

    @property
    def text(self) -> str:
        return (
            f"{super().text} That is no better than the network itself: are its classes (tokens) in the same "
            "order, and its inputs prepared in the same way?"
        )


@dataclass(frozen=True)
class TeacherLeft(Event):
    """Nobody teaches any more."""

    says = "The teacher {digest} teaches no longer."
    digest: str


@dataclass(frozen=True)
class TeacherFailed(Moment):
    """A teacher's answers were no numbers."""

    severity = Severity.PROBLEM
    says = (
        "The teacher's answers were no numbers in {steps} step(s) of this epoch; nothing was taught about "
        "those predictions. Another precision, or its original inputs, may mend it."
    )
    steps: int
