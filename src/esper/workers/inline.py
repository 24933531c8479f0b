"""A pool without processes: tasks run in the caller, for tests and for systems that cannot fork."""

from __future__ import annotations

import time
from dataclasses import dataclass

from esper.errors import AnalysisError
from esper.leyline import Clock
from esper.workers.call import call, pack, unpack
from esper.workers.health import WorkerHealth
from esper.workers.task import Ending, TaskOutcome, WorkerTask


@dataclass
class InlineHandle:
    """A task that is over."""

    ended: TaskOutcome

    def wait(self, timeout_seconds: float | None = None) -> bool:  # noqa: ARG002  (there is nothing to wait for)
        return True

    def outcome(self) -> TaskOutcome:
        return self.ended

    def cancel(self) -> None:
        """Changes nothing: the task is over."""


class InlinePool:
    """Runs every task inside `submit`, once.

    Nothing can be stopped from within its own process: a task that comes late is reported as `TIMEOUT` when
    it is done, a memory cap cannot be held, and a crash takes the caller with it. Values go through the
    same forms as on their way to a process, so that what works here works there.

    Args:
        clock: Monotonic time in seconds.
    """

    num_workers = 1

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._is_closed = False
        self._health = WorkerHealth(0)

    def health(self) -> tuple[WorkerHealth, ...]:
        """How the caller has fared as its own worker."""
        return (self._health,)

    def submit(self, task: WorkerTask) -> InlineHandle:
        if self._is_closed:
            raise AnalysisError("The worker pool is closed, so no task can be submitted. Open a new pool.")
        arguments = pack(task.function, task.arguments)
        started = self._clock()
        ending, value, message = unpack(task.function, *call(task.function_name, arguments))
        seconds = self._clock() - started
        if ending is Ending.DONE and seconds > task.deadline_seconds:
            late = (
                f"It took {seconds:g} seconds instead of {task.deadline_seconds:g}; its result was dropped."
            )
            ending, value, message = Ending.TIMEOUT, None, late
        self._health = self._health.after(ending, message, seconds, None)
        return InlineHandle(TaskOutcome(ending, value, message, attempts=1, seconds=seconds, worker=0))

    def close(self) -> None:
        self._is_closed = True
