"""The bus: messages to groups of readers, in one process, in a file of one machine, or in a Redis server."""

from esper.oona.address import check_installed, checked_address, open_bus
from esper.oona.bus import Bus, Counts, DeadLetter, Delivery, Limits
from esper.oona.envelopes import envelope_of
from esper.oona.memory import MemoryBus

__all__ = [
    "Bus",
    "Counts",
    "DeadLetter",
    "Delivery",
    "Limits",
    "MemoryBus",
    "check_installed",
    "checked_address",
    "envelope_of",
    "open_bus",
]
