"""What every bus promises: records wait for groups of readers, and each group gets each of them once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from esper.leyline.wire import messages


@dataclass(frozen=True)
class Limits:
    """How much a bus holds, and for how long a reader may keep a record to himself.

    Attributes:
        max_records: that a topic holds. When it is full, what every group has read goes first, then what
            has less priority than what comes; what comes without finding such is shed itself.
        lease_seconds: after which a record that was delivered and not acknowledged is given to whoever asks.
        max_deliveries: after which such a record is a dead letter of its group instead.
        max_dead: dead letters that a group keeps; the oldest go.
    """

    max_records: int = 100_000
    lease_seconds: float = 30.0
    max_deliveries: int = 5
    max_dead: int = 1_000


@dataclass(frozen=True)
class Receipt:
    """What became of a group of records; as durable as the bus is, when it is returned.

    Attributes:
        stored: how many lie on the bus by this call.
        known: how many lay there before, by their keys, and were not stored again.
        shed: which of them found no place, by their position in the call.
        displaced: how many older ones of less priority made room.
    """

    stored: int
    known: int = 0
    shed: tuple[int, ...] = ()
    displaced: int = 0


@dataclass(frozen=True)
class Delivery:
    """A record in the hands of a reader, until he acknowledges it or his lease ends.

    Attributes:
        envelope: the record.
        attempt: 1 the first time that the group gets it; above, somebody had it and did not acknowledge it,
            so some of his work may be done.
        place: by which the bus knows it.
    """

    envelope: messages.EventEnvelope
    attempt: int
    place: str


@dataclass(frozen=True)
class DeadLetter:
    """A record that a group has been given too often, or that nobody can read.

    Attributes:
        envelope: the record, as far as it can be read.
        deliveries: how often the group was given it.
        at_seconds: when it was given up, seconds since 1970.
        reason: why.
    """

    envelope: messages.EventEnvelope
    deliveries: int
    at_seconds: float
    reason: str


@dataclass(frozen=True)
class Counts:
    """What a topic holds, and what it has lost since it was made.

    Attributes:
        records: that lie on it, read or not.
        shed: that were removed or not taken because it was full.
        expired: that were older than they may become, before a group had them.
        forgotten: dead letters that made room for later ones.
    """

    records: int = 0
    shed: int = 0
    expired: int = 0
    forgotten: int = 0


class Subscription(Protocol):
    """One reader of a group; what he is given, no other of it gets while his lease lasts."""

    def receive(self, most: int, wait_seconds: float = 0.0) -> list[Delivery]:
        """Takes records: abandoned ones first, then the highest priority, then the oldest.

        Args:
            most: records at once.
            wait_seconds: how long to wait for the first; none come before it is over, or at once.

        Raises:
            BusError: the bus does not work.
        """
        ...

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        """Says that these are done; the group never gets them again. Returns how many were not so before.

        Raises:
            BusError: the bus does not work; whether they count as done is not known.
        """
        ...


class Bus(Protocol):
    """Records by topic. May be used by several threads."""

    def publish(self, envelopes: Sequence[messages.EventEnvelope]) -> Receipt:
        """Puts records on the bus, all or none; when it returns, they are as durable as the bus is.

        Whoever does not learn how a call has ended may repeat it: what has a key is not stored twice, as
        long as a record with that key lies on its topic.

        Raises:
            ContractError: one of them is no record.
            BusError: the bus does not work; whether they were stored is not known.
        """
        ...

    def subscribe(self, topic: str, group: str) -> Subscription:
        """Reads for a group. A group that is new gets all that its topic still holds.

        Raises:
            ContractError: a name cannot be used.
            BusError: the bus does not work.
        """
        ...

    def dead(self, topic: str, group: str) -> list[DeadLetter]:
        """The dead letters of a group, the oldest first.

        Raises:
            BusError: the bus does not work.
        """
        ...

    def counts(self, topic: str) -> Counts:
        """What a topic holds and has lost.

        Raises:
            BusError: the bus does not work.
        """
        ...

    def close(self) -> None:
        """Lets go of files and connections; what lies on a durable bus stays."""
        ...
