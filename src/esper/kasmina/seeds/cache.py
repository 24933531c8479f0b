"""Verified kernels in memory, within bytes, number and time; what is dropped is counted."""

from __future__ import annotations

from dataclasses import dataclass

from cachetools import TTLCache

from esper.leyline import Clock
from esper.tezzeret import Kernel, KernelSettings


@dataclass
class KernelCounts:
    """How kernels were had so far.

    Attributes:
        made: by a worker, or in this process where there is none.
        loaded: from the run directory, where an earlier process or an earlier try had left them.
        hits: from memory.
        refused: not at all.
        dropped: from memory again, because others came, or nobody asked for them in long.
    """

    made: int = 0
    loaded: int = 0
    hits: int = 0
    refused: int = 0
    dropped: int = 0

    def __str__(self) -> str:
        return (
            f"Kernels: {self.made} made, {self.loaded} out of the run directory, {self.hits} out of memory, "
            f"{self.refused} not to be had; {self.dropped} dropped from memory."
        )


class KernelCache(TTLCache[str, Kernel]):
    """Kernels by their names. The one that was asked for longest ago goes first.

    Args:
        settings: how many may be here, how many bytes they may have, and how long one stays unasked for.
        counts: has what was dropped.
        clock: monotonic seconds.
    """

    def __init__(self, settings: KernelSettings, counts: KernelCounts, clock: Clock) -> None:
        super().__init__(
            settings.cache_bytes, settings.ttl_seconds, clock, getsizeof=lambda kernel: kernel.size_bytes
        )
        self._max_kernels, self._counts = settings.cache_kernels, counts

    def find(self, name: str) -> Kernel | None:
        """A kernel, whose time begins anew; None if it is not here."""
        if (kernel := self.get(name)) is not None:
            self[name] = kernel
        return kernel

    def keep(self, kernel: Kernel) -> None:
        """From now on it is here, unless it is larger than all of them may be."""
        if kernel.size_bytes <= self.maxsize:
            self[kernel.order.name] = kernel
            while len(self) > self._max_kernels:
                self.popitem()

    def popitem(self) -> tuple[str, Kernel]:
        gone = super().popitem()
        self._counts.dropped += 1
        return gone

    def expire(self, time: float | None = None) -> list[tuple[str, Kernel]]:
        gone = super().expire(time)
        self._counts.dropped += len(gone)
        return gone
