"""A process that can read one file and answer, and nothing else: for what strangers wrote."""

from esper.workers.confinement.ending import Caps, Confined, Kind, Stopped
from esper.workers.confinement.kernel import can_filter
from esper.workers.confinement.process import run_confined

__all__ = ["Caps", "Confined", "Kind", "Stopped", "can_filter", "run_confined"]
