"""Signed envelopes over the bus: what is delivered twice is believed once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from esper.leyline.wire import BelievedKeys, SignedChannel, messages
from esper.oona import Limits
from esper.oona.bus import Bus, Subscription
from esper.oona.journal import JournalBus

KEYS = BelievedKeys("k1", {"k1": bytes(range(32))})
BOOT = bytes(16)


class OverBus:
    """Carries signed envelopes on a topic for each receiver, who acknowledges what he has taken."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._boxes: dict[str, Subscription] = {}

    def put(self, receiver: str, raw: bytes) -> None:
        one = messages.EventEnvelope(
            version=1, topic=f"Signed.{receiver}", type="Signed", payload=raw, at_seconds=time.time()
        )
        one.priority = messages.PRIORITY_HIGH
        self._bus.publish([one])

    def take(self, receiver: str) -> Iterator[bytes]:
        box = self._boxes.setdefault(receiver, self._bus.subscribe(f"Signed.{receiver}", receiver))
        for delivery in box.receive(256):
            yield delivery.envelope.payload
            box.ack([delivery])


def test_signed_messages_go_over_a_journal_and_a_second_delivery_is_refused(tmp_path: Path) -> None:
    bus = JournalBus(tmp_path / "bus.sqlite", Limits(lease_seconds=0.01))
    sender = SignedChannel(OverBus(bus), KEYS, BOOT, "asker")
    receiver = SignedChannel(OverBus(bus), KEYS, BOOT, "trainer")
    for number in range(3):
        sender.send("trainer", messages.AdaptationCommand(version=1, idempotency_key=str(number)))
    letters = receiver.receive()
    first = next(letters)
    del letters  # it stops before it has acknowledged the first
    assert messages.AdaptationCommand.FromString(first.payload).idempotency_key == "0"
    got: list[str] = []
    end = time.monotonic() + 30.0
    while (receiver.refusals.total() < 1 or len(got) < 2) and time.monotonic() < end:
        got += [
            messages.AdaptationCommand.FromString(one.payload).idempotency_key for one in receiver.receive()
        ]
    assert got == ["1", "2"]
    assert receiver.refusals == {"ReplayError": 1}
    bus.close()
