"""How each worker has fared: what became of its attempts, and whether it can be relied on now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from esper.workers.task import Ending


class Condition(StrEnum):
    """What can be said about a worker."""

    UNKNOWN = "unknown"
    """It has not ended any task, so nothing can be said."""

    OK = "ok"
    """Its last attempt ended by itself."""

    FAILING = "failing"
    """Its last attempt was lost, killed at its deadline, or out of memory."""


_TROUBLE = (Ending.LOST, Ending.TIMEOUT, Ending.MEMORY)


@dataclass(frozen=True)
class WorkerHealth:
    """One place in a pool; the process in it may have been replaced.

    Attributes:
        worker: its number, from 0.
        attempts: how many of its attempts ended in which way.
        last: how the last one ended; None if there was none.
        message: what was said about the last trouble.
        seconds: how long the last attempt took.
        peak_bytes: most memory that its process has held, as far as it told.
    """

    worker: int
    attempts: Mapping[Ending, int] = field(default_factory=dict)
    last: Ending | None = None
    message: str = ""
    seconds: float = 0.0
    peak_bytes: int | None = None

    @property
    def condition(self) -> Condition:
        if self.last is None:
            return Condition.UNKNOWN
        return Condition.FAILING if self.last in _TROUBLE else Condition.OK

    def after(self, ending: Ending, message: str, seconds: float, peak_bytes: int | None) -> WorkerHealth:
        """The same after one more attempt. A task that was canceled says nothing about its worker."""
        attempts = {**self.attempts, ending: self.attempts.get(ending, 0) + 1}
        if ending is Ending.CANCELED:
            return replace(self, attempts=attempts)
        return replace(
            self,
            attempts=attempts,
            last=ending,
            message=message or self.message,
            seconds=seconds,
            peak_bytes=max(filter(None, (self.peak_bytes, peak_bytes)), default=None),
        )
