"""How kernels are made and kept."""

from __future__ import annotations

from esper.settings import PositiveCount, Seconds, Section


class KernelSettings(Section):
    """Seeds are made and checked in a worker process before the network gets them: what that may take."""

    deadline_seconds: Seconds = 60.0
    """So long a worker may take for one; then it is killed, and nothing germinates."""
    memory_bytes: PositiveCount = 2 << 30
    """So much memory it may take for that."""
    max_bytes: PositiveCount = 256 << 20
    """A seed whose weights are larger is refused, before they are made."""
    max_pass_seconds: Seconds = 10.0
    """A seed whose forward and backward pass take longer, for at most 32 samples, is refused."""
    cache_bytes: PositiveCount = 512 << 20
    """Verified kernels that wait in memory, and those on disk."""
    cache_kernels: PositiveCount = 1000
    """The same as a number of kernels."""
    ttl_seconds: Seconds = 3600.0
    """A kernel that was not asked for in so long leaves the memory."""
    max_failures: PositiveCount = 10
    """So many kernels in a row that could not be had open the breaker: nothing is made or loaded."""
    cooldown_seconds: Seconds = 30.0
    """So long it stays open; then one is tried."""
