"""A pool of processes on this machine, through a supervisor process that keeps the trainer out of it."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from esper.errors import AnalysisError, ConfigError
from esper.workers.call import pack, unpack
from esper.workers.channel import BrokenMessage, wait_for
from esper.workers.health import WorkerHealth
from esper.workers.line import connect
from esper.workers.task import Ending, TaskOutcome, WorkerTask


class LocalPool:
    """Runs tasks in `num_workers` processes of this machine.

    A process of its own imports `preload` while the trainer goes on, and all workers are forked from it. It
    is shared with other open pools that need no other modules, so that these start in milliseconds. With
    `may_copy` it is a copy of the trainer, which has imported them, where one can be made safely. Workers
    run at low priority on one thread each. They end with the pool, with the interpreter, and when the
    trainer dies however it dies, and what tasks have started ends with them. The user's main script is never
    run again, so it needs no guard. What a task prints to standard output is dropped; standard error is
    passed through. If the supervisor of the workers is killed, its tasks are `LOST` and the next `submit`
    starts another.

    The pool has no thread of its own; methods may be called from any thread. A copy of it in a forked
    process does nothing.

    Args:
        num_workers: Processes that may work at once.
        preload: Modules that tasks need and that take long to import; they must start no thread and no GPU
            context.
        may_copy: Whether workers may begin as copies of this process, with all that it holds in memory.

    Raises:
        ConfigError: No worker is asked for, or this system cannot fork.
    """

    def __init__(
        self,
        num_workers: int,
        preload: Sequence[str] = ("torch", "safetensors.torch"),
        *,
        may_copy: bool = False,
    ) -> None:
        if num_workers < 1:
            raise ConfigError(
                f"A pool of processes needs at least one, not {num_workers}. Use InlinePool for none."
            )
        if not hasattr(os, "fork") or not sys.executable:
            raise ConfigError(
                "This system cannot start worker processes. Set `workers = 0` to analyze in-process."
            )
        self.num_workers = num_workers
        self._preload = tuple(preload)
        self._may_copy = may_copy
        self._numbers = count()
        self._open: dict[int, LocalHandle] = {}
        self._health: dict[int, WorkerHealth] = {}
        self._turn = threading.Condition()
        self._is_reading = False
        self._is_closed = False
        self._owner = os.getpid()
        self._start()

    def submit(self, task: WorkerTask) -> LocalHandle:
        request = {
            "function": task.function_name,
            "arguments": pack(task.function, task.arguments),
            "deadline_seconds": task.deadline_seconds,
            "memory_bytes": task.memory_bytes,
            "retries": task.retries,
        }
        with self._turn:
            if not self._is_mine:
                raise AnalysisError(
                    "The worker pool is closed, so no task can be submitted. Open a new pool."
                )
            self._look()
            if not self._line.channel.is_open:  # the supervisor was killed
                self._start()
            number = next(self._numbers)
            handle = self._open[number] = LocalHandle(task.function, self._wait, self._cancel, number)
            self._line.channel.send({"id": number, **request})
            self._line.channel.finish()
            return handle

    def health(self) -> tuple[WorkerHealth, ...]:
        """How every worker has fared so far; one that has ended no task is unknown, not well."""
        with self._turn:
            self._look()
            return tuple(self._health.get(n, WorkerHealth(n)) for n in range(self.num_workers))

    def close(self) -> None:
        if os.getpid() != self._owner:
            return
        with self._turn:
            if self._is_closed:
                return
            self._is_closed = True
            self._end()
            self._settle(
                TaskOutcome(Ending.CANCELED, message="The worker pool was closed before the task ended.")
            )
            self._turn.notify_all()

    @property
    def _is_mine(self) -> bool:
        """Whether it is open, and this process is not a fork of the one that has opened it."""
        return not self._is_closed and os.getpid() == self._owner

    def _start(self) -> None:
        self._line = connect(self.num_workers, self._preload, may_copy=self._may_copy)
        self._may_copy = False  # one that is started later would copy what was read meanwhile, keys too
        self._end = weakref.finalize(self, self._line.end)

    def _cancel(self, handle: LocalHandle) -> None:
        with self._turn:
            if handle.number in self._open and self._is_mine:
                self._line.channel.send({"cancel": handle.number})
                self._line.channel.finish()

    def _wait(self, handle: LocalHandle, timeout_seconds: float | None) -> bool:
        """Reads until the handle has its outcome; of several threads that wait, one reads for all."""
        end = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._turn:
            while handle.ended is None and self._is_mine:
                left = end - time.monotonic()
                if self._is_reading:
                    if left <= 0 or not self._turn.wait(None if left == math.inf else left):
                        break
                    continue
                is_ready = self._read(max(0.0, left))
                if not is_ready and left <= 0:
                    break
            return handle.ended is not None

    def _look(self) -> None:
        """Takes in what has arrived, unless another thread is at it."""
        if self._is_mine and not self._is_reading and self._line.channel.is_open:
            self._read(0.0)

    def _read(self, seconds: float) -> bool:
        """Waits with the lock released, then takes in what has arrived; False if nothing has."""
        self._is_reading = True
        self._turn.release()
        try:
            ready = wait_for([self._line.channel], None if seconds == math.inf else seconds)
        finally:
            self._turn.acquire()
            self._is_reading = False
            self._turn.notify_all()
        if ready and not self._is_closed:
            self._receive()
        return bool(ready)

    def _receive(self) -> None:
        try:
            for message in self._line.receive():
                outcome = _outcome(self._open[message["id"]].function, message)
                self._note(outcome)
                if "retried" not in message:
                    self._open.pop(message["id"]).ended = outcome
        except (EOFError, BrokenMessage):
            self._settle(TaskOutcome(Ending.LOST, message=self._end() or ""))

    def _note(self, outcome: TaskOutcome) -> None:
        """An attempt becomes part of the health of the worker that made it."""
        if outcome.worker is not None:
            before = self._health.get(outcome.worker, WorkerHealth(outcome.worker))
            told = (outcome.ending, outcome.message, outcome.seconds, outcome.peak_bytes)
            self._health[outcome.worker] = before.after(*told)

    def _settle(self, outcome: TaskOutcome) -> None:
        for handle in self._open.values():
            handle.ended = outcome
        self._open.clear()


class LocalHandle:
    """A task in a `LocalPool`."""

    def __init__(
        self,
        function: Callable[..., Any] | str,
        wait: Callable[[LocalHandle, float | None], bool],
        cancel: Callable[[LocalHandle], None],
        number: int,
    ) -> None:
        self.function = function
        self._wait = wait
        self._cancel = cancel
        self.number = number
        self.ended: TaskOutcome | None = None

    def wait(self, timeout_seconds: float | None = None) -> bool:
        return self._wait(self, timeout_seconds)

    def outcome(self) -> TaskOutcome:
        self.wait()
        if self.ended is None:
            raise AnalysisError("This task belongs to the process that submitted it, not to a fork of that.")
        return self.ended

    def cancel(self) -> None:
        self._cancel(self)


def _outcome(function: Callable[..., Any] | str, message: dict[str, Any]) -> TaskOutcome:
    ending, value, text = unpack(function, Ending(message["ending"]), message["value"], message["message"])
    rest = {name: message[name] for name in ("attempts", "seconds", "worker", "peak_bytes")}
    return TaskOutcome(ending, value, text, **rest)
