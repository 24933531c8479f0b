"""The bus: messages to groups of readers, in one process, in a file of one machine, or in a Redis server."""

from esper.oona.address import open_bus
from esper.oona.bus import Limits
from esper.oona.envelopes import envelope_of
from esper.oona.memory import MemoryBus

__all__ = ["Limits", "MemoryBus", "envelope_of", "open_bus"]
