"""A bus in one SQLite file: for the processes of one machine, and still there when they are killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from esper.leyline import Clock
from esper.leyline.wire import messages
from esper.oona.bus import Counts, DeadLetter, Delivery, Limits, Receipt
from esper.oona.envelopes import checked_name
from esper.oona.file import JournalFile
from esper.oona.rows import Row, Rows, row_of
from esper.oona.taking import Taking

_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 0.0005, 0.01


class JournalBus:
    """Keeps everything in a file, with its write-ahead log beside it; several processes may open it at once.

    A call that publishes is one transaction, synced to the disk before it returns. The file must lie on a
    disk of this machine: network file systems lose the locks of SQLite.

    Args:
        path: of the file, which is made if it is not there.
        limits: how much, and how long; processes that share a file should agree.
        clock: seconds since 1970.
        pause: waits for so many seconds until it looks for records again.

    Raises:
        BusError: the file cannot be used; the message says why.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits | None = None,
        clock: Clock = time.time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limits, self._clock, self._pause = limits or Limits(), clock, pause
        self._file = JournalFile(path)
        self._lock = threading.RLock()

    def publish(self, envelopes: Sequence[messages.EventEnvelope]) -> Receipt:
        groups: dict[str, list[tuple[int, Row]]] = {}
        for position, envelope in enumerate(envelopes):
            groups.setdefault(envelope.topic, []).append((position, row_of(envelope)))
        receipt = Receipt(0)
        with self._acting() as rows:
            for topic, coming in groups.items():
                one = rows.publish(topic, [row for _, row in coming])
                receipt = Receipt(
                    receipt.stored + one.stored,
                    receipt.known + one.known,
                    (*receipt.shed, *(coming[at][0] for at in one.shed)),
                    receipt.displaced + one.displaced,
                )
        return receipt

    def subscribe(self, topic: str, group: str) -> JournalSubscription:
        checked_name(topic, "topic")
        checked_name(group, "group")
        with self._acting() as rows:
            number = rows.group(topic, group)
        return JournalSubscription(self, number)

    def dead(self, topic: str, group: str) -> list[DeadLetter]:
        with self._lock, self._file.reading() as connection:
            return Rows(connection, self._limits, self._clock).dead(topic, group)

    def counts(self, topic: str) -> Counts:
        with self._lock, self._file.reading() as connection:
            return Rows(connection, self._limits, self._clock).counts(topic)

    def close(self) -> None:
        with self._lock:
            self._file.close()

    @contextmanager
    def _acting(self) -> Iterator[Rows]:
        with self._lock, self._file.writing() as connection:
            yield Rows(connection, self._limits, self._clock)

    def receive(self, group: int, most: int, wait_seconds: float) -> list[Delivery]:
        """Takes records for a group, by its number."""
        end, pause = time.monotonic() + wait_seconds, _FIRST_PAUSE_SECONDS
        while True:
            with self._lock:
                with self._file.reading() as connection:
                    has_some = Taking(connection, self._limits, self._clock).has_some(group)
                if has_some:
                    with self._file.writing() as connection:
                        taken = Taking(connection, self._limits, self._clock).take(group, most)
                    if taken:
                        return taken
            left = end - time.monotonic()
            if left <= 0:
                return []
            self._pause(min(pause, left))
            pause = min(2 * pause, _LAST_PAUSE_SECONDS)

    def ack(self, group: int, numbers: list[int]) -> int:
        """Records of a group that are done, by their numbers."""
        with self._lock, self._file.writing() as connection:
            return Taking(connection, self._limits, self._clock).ack(group, numbers)


class JournalSubscription:
    """One reader of a group of a `JournalBus`."""

    def __init__(self, bus: JournalBus, group: int) -> None:
        self._bus, self._group = bus, group

    def receive(self, most: int, wait_seconds: float = 0.0) -> list[Delivery]:
        return self._bus.receive(self._group, most, wait_seconds)

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        return self._bus.ack(self._group, [int(delivery.place) for delivery in deliveries])
