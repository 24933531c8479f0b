"""Telemetry on a bus, for whoever follows runs from other processes and must not miss anything."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

from esper.errors import BusError
from esper.leyline.wire import VERSION, messages
from esper.nissa.event import Event, Moment, Severity, kind_of
from esper.nissa.progress import EpochEnded
from esper.oona import Bus, check_installed, envelope_of, open_bus

LIVES_SECONDS = 7 * 86_400.0
"""After which a record that nobody has read makes room for others."""
_PRIORITIES = {
    Severity.DETAIL: messages.PRIORITY_LOW,
    Severity.NEWS: messages.PRIORITY_NORMAL,
    Severity.PROBLEM: messages.PRIORITY_HIGH,
}
_MAX_KEPT = 1_000
"""Records that are kept while the bus does not work."""
_MAX_NAME_BYTES = 100
_MAX_TEXT = 10_000


class OnBus:
    """Publishes every event as a record of the topic `TelemetryEvent`, one commit for each.

    What the bus did not take is published again with the next event, under the same key: it lies there once
    whether or not the first attempt got through.

    Args:
        address: of the bus, which is opened with the first event and not before.
        run: its name, the first part of every key.
        boot: what tells this process of the run from others; the second part.
        says: puts a sentence in the words of a run.

    Raises:
        ConfigError: what the bus needs is not installed.
    """

    def __init__(self, address: str, run: str, boot: str, says: Callable[[str], str] = str) -> None:
        check_installed(address)
        # The script may go to another folder before the first event.
        self.address = address if "://" in address else str(Path(address).absolute())
        self._source = f"{run.encode(errors='replace')[:_MAX_NAME_BYTES].decode(errors='ignore')}/{boot}"
        self._says = says
        self._bus: Bus | None = None
        self._kept: deque[messages.EventEnvelope] = deque(maxlen=_MAX_KEPT)
        self._count = 0

    def write(self, at_seconds: float, event: Event) -> None:
        """Publishes one event, and before it what is left over.

        Raises:
            BusError: the bus does not work, or is full.
        """
        self._count += 1
        message = _message_of(at_seconds, event, self._says)
        self._kept.append(
            envelope_of(
                message,
                at_seconds=at_seconds,
                key=f"{self._source}/{self._count:09d}",
                priority=message.priority,
                lives_seconds=LIVES_SECONDS,
            )
        )
        self._publish()

    def close(self) -> None:
        """Publishes what is left over, and lets go of the bus.

        Raises:
            BusError: the bus does not work, or is full.
        """
        try:
            if self._kept:
                self._publish()
        finally:
            if self._bus is not None:
                self._bus.close()
                self._bus = None

    def _publish(self) -> None:
        if self._bus is None:
            self._bus = open_bus(self.address)
        receipt = self._bus.publish(list(self._kept))
        self._kept.clear()
        gone = len(receipt.shed) + receipt.displaced
        if gone:
            raise BusError(
                f"the bus {self.address} is full, and {gone} of the records of least priority were shed. "
                f"Let its groups read; what nobody reads goes after {LIVES_SECONDS / 86_400:.0f} days"
            )


def _message_of(at_seconds: float, event: Event, says: Callable[[str], str]) -> messages.TelemetryEvent:
    message = messages.TelemetryEvent(
        version=VERSION,
        kind=kind_of(type(event)),
        by=event.by,
        priority=_PRIORITIES[event.severity],
        at_seconds=at_seconds,
        text=says(event.text)[:_MAX_TEXT],
    )
    if isinstance(event, Moment):
        message.epoch = event.epoch
    if isinstance(event, EpochEnded):
        message.metrics.update(event.metrics)
    return message
