"""Hears whether Esper keeps its promises while a run goes on, and says so once when it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from esper.nissa import Event, progress
from esper.nissa import promises as told
from esper.report import Measures, Promise, Standing, promises

_EPOCHS_KEPT = 3
"""Epochs in a row that a broken promise must be kept before that is told: nobody wants to hear it often."""


class PromiseWatch:
    """A sink that counts what promises are about, and judges them where an epoch ends.

    Args:
        tell: who hears of one that is broken, or kept again.
    """

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._analyses: dict[str, int] = {}
        self._durations: list[float] = []
        self._last: progress.EpochEnded | None = None
        self._broken: dict[str, int] = {}

    def emit(self, event: Event) -> None:
        if isinstance(event, progress.AnalysisEnded):
            status = "late" if event.is_late else event.status
            self._analyses[status] = self._analyses.get(status, 0) + 1
            if event.seconds is not None:
                self._durations.append(event.seconds)
        elif isinstance(event, progress.EpochEnded):
            self._last = event
            for promise in self.standing():
                self._look(event.epoch, promise)

    def standing(self, at_the_end: tuple[float, float] | None = None) -> tuple[Promise, ...]:
        """Every promise by what this process has measured until now.

        Args:
            at_the_end: seconds that training has waited for Esper, of how many; None: as the last epoch told.
        """
        last = self._last
        known = Measures(self._analyses, self._durations)
        if last is not None:
            known = Measures(
                self._analyses,
                self._durations,
                last.stall_seconds,
                last.esper_seconds,
                last.running_seconds,
                last.worker_peak_bytes,
            )
        if at_the_end is not None:
            waited, running = at_the_end
            known = replace(known, esper_seconds=waited, running_seconds=running)
        return promises(known)

    def _look(self, epoch: int, promise: Promise) -> None:
        name, measured = promise.name, promise.measured
        if measured is None:
            return
        said = (epoch, name, measured, promise.target, promise.text)
        if promise.standing is Standing.BROKEN:
            if name not in self._broken:
                self._tell(told.PromiseBroken(*said))
            self._broken[name] = 0
        elif name in self._broken and promise.standing is Standing.KEPT:
            self._broken[name] += 1
            if self._broken[name] == _EPOCHS_KEPT:
                del self._broken[name]
                self._tell(told.PromiseKept(*said))
