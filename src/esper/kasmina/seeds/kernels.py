"""Kernels as the training process has them: asked for ahead, verified, cached, left alone where they fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from esper.kasmina.seeds.cache import KernelCache, KernelCounts
from esper.leyline import Breaker, BreakerEvent, BreakerState, Clock
from esper.nissa import Event, kernel_events
from esper.tezzeret import (
    Fetched,
    Kernel,
    KernelOrder,
    KernelSettings,
    NoKernel,
    Tezzeret,
)


@dataclass(frozen=True)
class _Limits:
    """Of the breaker, which counts in seconds here."""

    max_failures: int
    cooldown_epochs: int


class Kernels:
    """Has seeds of one network made off the training path, and gives their outlines their weights.

    Args:
        source: makes and stores them.
        settings: sizes of the cache, limits of the breaker.
        is_apart: whether waiting for them may be left to a thread: not where there is no worker process.
        clock: monotonic seconds.

    Attributes:
        counts: how they were had.
    """

    def __init__(
        self, source: Tezzeret, settings: KernelSettings, *, is_apart: bool, clock: Clock = time.monotonic
    ) -> None:
        self._source, self._settings, self._is_apart, self._clock = source, settings, is_apart, clock
        self._limits = _Limits(settings.max_failures, round(settings.cooldown_seconds))
        self._breaker = Breaker()
        self.counts = KernelCounts()
        self._cache = KernelCache(settings, self.counts, clock)
        self._under_way: dict[str, Future[Fetched]] = {}
        self._turn = threading.Lock()
        self._is_closed = False

    @property
    def breaker_state(self) -> BreakerState:
        """Whether kernels are asked for."""
        return self._breaker.state(int(self._clock()), self._limits)

    def close_breaker(self) -> None:
        """The operator's word that kernels may be asked for."""
        self._breaker = Breaker()

    def ahead(self, order: KernelOrder) -> None:
        """A kernel will be wanted: from now on a worker is at it, if there is one."""
        is_known = order.name in self._cache or order.name in self._under_way
        if self._is_apart and not is_known and self.breaker_state is BreakerState.CLOSED:
            self._under_way[order.name] = self._begun(order)

    def get(self, order: KernelOrder, epoch: int, tell: Callable[[Event], None]) -> Kernel | NoKernel:
        """The kernel, from memory or when its worker is done, or why there is none.

        Args:
            order: which one.
            epoch: epochs that have ended.
            tell: is told what people should know.
        """
        if (kernel := self._cache.find(order.name)) is not None:
            self.counts.hits += 1
            return kernel
        now = int(self._clock())
        if self._breaker.state(now, self._limits) is BreakerState.OPEN:
            self.counts.refused += 1
            left = (self._breaker.opened_epoch or 0) + self._limits.cooldown_epochs - now
            return NoKernel(
                f"No kernel: the breaker of kernels is open for {left} s more, after "
                f"{self._breaker.failures} failures in a row; close_breaker() closes it.",
                is_fault=False,
            )
        fetched = (self._under_way.pop(order.name, None) or self._begun(order)).result()
        if fetched.rejected:
            tell(kernel_events.KernelRejected(epoch, order.slot, fetched.rejected))
        self._note(fetched, epoch, tell)
        return fetched.kernel

    def close(self) -> None:
        """Ends the worker; what is under way is called off."""
        self._is_closed = True
        self._source.close()

    def _begun(self, order: KernelOrder) -> Future[Fetched]:
        future: Future[Fetched] = Future()

        def fetch() -> None:
            with self._turn:  # one after the other, as they were asked for
                called_off = Fetched(NoKernel("No kernel: the run has ended.", is_fault=False))
                try:
                    future.set_result(called_off if self._is_closed else self._source.fetch(order))
                except BaseException as error:  # noqa: BLE001 (raised again where somebody waits)
                    future.set_exception(error)

        if self._is_apart:
            threading.Thread(target=fetch, name="kernel", daemon=True).start()
        else:
            fetch()
        return future

    def _note(self, fetched: Fetched, epoch: int, tell: Callable[[Event], None]) -> None:
        """Counts what became of an order, and keeps a kernel in memory."""
        kernel, now = fetched.kernel, int(self._clock())
        if isinstance(kernel, Kernel):
            self.counts.made += fetched.is_made
            self.counts.loaded += not fetched.is_made
            self._breaker = self._breaker.after(BreakerEvent.SUCCESS, now, self._limits)
            self._cache.keep(kernel)
            return
        self.counts.refused += 1
        if kernel.is_fault:
            self._breaker = self._breaker.after(BreakerEvent.FAILURE, now, self._limits)
            if self._breaker.state(now, self._limits) is BreakerState.OPEN:
                failures = self._breaker.failures
                tell(
                    kernel_events.KernelsStopped(epoch, failures, self._settings.cooldown_seconds, kernel.why)
                )
