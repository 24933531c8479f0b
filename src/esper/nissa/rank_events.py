"""What can happen where several processes train one network, with the sentence that people read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.nissa.event import Event, Moment, Severity
from esper.nissa.progress import Spread


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


@dataclass(frozen=True)
class MeasuredApart(Event):
    """Ranks have measured different numbers, each on a share of the data of its own."""

    says = (
        "The processes have measured {metric} differently, each on its own share of the data: decisions are "
        "made by the mean of their numbers."
    )
    metric: str


@dataclass(frozen=True)
class RankSummary(Moment):
    """What one of several ranks has counted in the period that has ended; `TelemetrySummary` is of all.

    Attributes:
        region: which rank.
        spreads: by name, as in `TelemetrySummary`; and `waited_seconds`, that this rank waited at the end of
            the period before until the last one had come.
        dropped: values that were not taken.
    """

    severity, is_noted, is_recorded, by = Severity.DETAIL, False, False, "narset"
    says = "{region} has counted its steps."
    region: str
    spreads: Mapping[str, Spread]
    dropped: int
