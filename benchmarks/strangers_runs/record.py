"""What one training gave, and a listener that writes down what Esper did in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from esper.nissa import Event, Moment

LONGEST = 400
"""Characters of a sentence that are kept."""


@dataclass
class Record:
    """One line of the file.

    Attributes:
        name: of the run.
        arm: `twin`, `esper` or `peer`.
        seed: of weights and order.
        target: share of the FLOPs that shall go.
        metric: what quality is.
        is_loss: less of it is better.
        share: of the FLOPs that is gone at the end, by torch's counter on the network itself.
        final: quality on all test samples.
        curve: quality on the watched test samples after every epoch, before anything is removed there.
        instants: epoch, and quality on them right after something was masked or cut.
        cpu_seconds: of training, of this process and its workers, without looks at test samples.
        wall_seconds: the same on the clock.
        stalls: the longest wait of each kind of call to Esper, by its name, in seconds.
        load: of the machine when the training ended (mean of a minute).
        events: epoch, name and sentence of all that Esper told.
        notes: of its report.
        why: the sentence in which it says that the target was missed; '' if there is none.
        esper_share: of the FLOPs that is gone by its own account.
        costs: of itself, as its report states them.
        error: how the training ended before its time.
    """

    name: str
    arm: str
    seed: int
    target: float = 0.0
    metric: str = ""
    is_loss: bool = False
    share: float = 0.0
    final: float | None = None
    curve: list[float] = field(default_factory=list)
    instants: list[tuple[int, float]] = field(default_factory=list)
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    stalls: dict[str, float] = field(default_factory=dict)
    load: float = 0.0
    events: list[tuple[int, str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    why: str = ""
    esper_share: float | None = None
    costs: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    def stall(self, call: str, seconds: float) -> None:
        self.stalls[call] = max(self.stalls.get(call, 0.0), seconds)


class Listener:
    """A sink of events that keeps what it hears."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.epoch = 0

    def emit(self, event: Event) -> None:
        epoch = event.epoch if isinstance(event, Moment) else self.epoch
        self.record.events.append((epoch, type(event).__name__, event.text[:LONGEST]))
