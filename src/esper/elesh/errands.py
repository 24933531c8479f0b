"""Tasks for worker processes with a deadline in which queueing and retries count; what is late is stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from esper.errors import AnalysisError, AnalysisTimeout
from esper.leyline import Clock
from esper.workers import Ending, TaskHandle, TaskOutcome, WorkerPool, WorkerTask


@dataclass(frozen=True)
class Errand:
    """One task under way.

    Attributes:
        handle: of the task.
        name: the function's.
        until: the moment of `clock` at which it is stopped.
        clock: monotonic seconds.
    """

    handle: TaskHandle
    name: str
    until: float
    clock: Clock

    def outcome(self) -> TaskOutcome:
        """Waits for the task until its deadline, and stops it then."""
        if self.handle.wait(max(self.until - self.clock(), 0.0)):
            return self.handle.outcome()
        self.handle.cancel()
        outcome = self.handle.outcome()
        if outcome.is_done:  # it ended while it was being stopped
            return outcome
        return replace(outcome, ending=Ending.TIMEOUT, message="It was stopped at its deadline.")

    def value(self) -> Any:
        """What the task returns.

        Raises:
            AnalysisTimeout: it was stopped at its deadline.
            AnalysisError: it failed, or its worker was lost.
        """
        outcome = self.outcome()
        if not outcome.is_done:
            error = AnalysisTimeout if outcome.is_late else AnalysisError
            raise error(f"The {self.name} task gave no result: {outcome.message}")
        return outcome.value


@dataclass(frozen=True)
class Errands:
    """Where tasks go: a pool, the memory that each may take, and the clock of their deadlines."""

    pool: WorkerPool
    memory_bytes: int | None
    clock: Clock

    def send(
        self, function: Any, arguments: Mapping[str, Any], seconds: float, until: float | None = None
    ) -> Errand:
        """Submits one task: each attempt may take so long, and it is stopped at that moment of the clock."""
        until = self.clock() + seconds if until is None else until
        task = WorkerTask(function, arguments, deadline_seconds=seconds, memory_bytes=self.memory_bytes)
        return Errand(self.pool.submit(task), function.__name__, until, self.clock)
