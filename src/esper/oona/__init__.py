"""The bus: messages to groups of readers, in one process, in a file of one machine, or in a Redis server."""

from esper.oona.address import checked_address, open_bus
from esper.oona.bus import Bus, Counts, DeadLetter, Delivery, Limits, Receipt, Subscription
from esper.oona.envelopes import envelope_of
from esper.oona.journal import JournalBus
from esper.oona.memory import MemoryBus
from esper.oona.streams import RedisBus

__all__ = [
    "Bus",
    "Counts",
    "DeadLetter",
    "Delivery",
    "JournalBus",
    "Limits",
    "MemoryBus",
    "Receipt",
    "RedisBus",
    "Subscription",
    "checked_address",
    "envelope_of",
    "open_bus",
]
