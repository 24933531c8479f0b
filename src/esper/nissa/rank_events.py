"""What can happen where several processes train one network, with the sentence that people read."""

from __future__ import annotations

from dataclasses import dataclass

from esper.nissa.event import Event, Severity


@dataclass(frozen=True)
class TrainedTogether(Event):
    """Several processes train the network; this one decides."""

    says = "{processes} processes train this network: rank 0 decides, and all of them do it at the same step."
    processes: int


@dataclass(frozen=True)
class OtherProcesses(Event):
    """A run goes on with another number of processes than it was saved by."""

    severity = Severity.PROBLEM
    says = (
        "The checkpoint holds the random numbers of {saved} process(es), and {processes} go on: those "
        "without draw others, so the run is not bit for bit the one that was not interrupted."
    )
    saved: int
    processes: int
