"""A pool of processes on this machine, through a supervisor process that keeps the trainer out of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from socket import socketpair
from typing import Any

from esper.errors import AnalysisError, ConfigError
from esper.leyline import from_plain, to_plain
from esper.workers.channel import Channel, wait_for
from esper.workers.health import WorkerHealth
from esper.workers.task import Status, TaskOutcome, WorkerTask

_START = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path']; "
    "from esper.workers.supervisor import main; "
    "main(given['number'], given['workers'], given['preload'])"
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_PATIENCE_SECONDS = 5.0


class LocalPool:
    """Runs tasks in `num_workers` processes of this machine.

    The supervisor process is started at once and imports `preload` while the trainer goes on. Workers run
    at low priority on one thread each. They end with the pool, with the interpreter, and when the trainer
    dies however it dies. The user's main script is never run again, so it needs no guard. What a task
    prints to standard output is dropped; standard error is passed through. If the supervisor itself is
    killed, its tasks are `LOST` and the next `submit` starts another.

    The pool has no thread of its own; methods may be called from any thread. A copy of it in a forked
    process does nothing.

    Args:
        num_workers: Processes that may work at once. preload: Modules that tasks need and that take long to
        import; they must start no thread and no GPU context.

    Raises:
        ConfigError: No worker is asked for, or this system cannot fork.
    """

    def __init__(self, num_workers: int, preload: Sequence[str] = ("torch", "safetensors.torch")) -> None:
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
            "arguments": to_plain(dict(task.arguments)),
            "deadline_seconds": task.deadline_seconds,
            "memory_bytes": task.memory_bytes,
            "retries": task.retries,
        }
        with self._turn:
            if self._is_closed or os.getpid() != self._owner:
                raise AnalysisError(
                    "The worker pool is closed, so no task can be submitted. Open a new pool."
                )
            if self._supervisor.poll() is not None:
                self._bury()
                self._start()
            number = next(self._numbers)
            handle = self._open[number] = LocalHandle(self._wait, self._cancel, number)
            self._channel.send({"id": number, **request})
            self._channel.finish()
            return handle

    def health(self) -> tuple[WorkerHealth, ...]:
        """How every worker has fared so far; one that has ended no task is unknown, not well."""
        with self._turn:
            is_mine = not self._is_closed and os.getpid() == self._owner
            if is_mine and not self._is_reading and self._channel.is_open:
                self._read(0.0)
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
                TaskOutcome(Status.CANCELED, message="The worker pool was closed before the task ended.")
            )
            self._turn.notify_all()

    def _start(self) -> None:
        ours, theirs = socketpair()
        given = {
            "path": [str(Path(entry).absolute()) for entry in sys.path],
            "number": theirs.fileno(),
            "workers": self.num_workers,
            "preload": self._preload,
        }
        self._supervisor = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(given)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **_ONE_THREAD},
            # A group of its own: an interrupt from the keyboard is for the trainer to handle. Not a session
            # of its own: Linux shares the processor out between sessions first, whatever their niceness.
            process_group=0,
        )
        theirs.close()
        self._channel = Channel(ours)
        self._end = weakref.finalize(self, _end, self._supervisor, self._channel, os.getpid())

    def _cancel(self, handle: LocalHandle) -> None:
        with self._turn:
            if handle.number in self._open and not self._is_closed:
                self._channel.send({"cancel": handle.number})
                self._channel.finish()

    def _wait(self, handle: LocalHandle, timeout_seconds: float | None) -> bool:
        """Reads until the handle has its outcome; of several threads that wait, one reads for all."""
        end = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        with self._turn:
            while handle.ended is None and not self._is_closed:
                left = end - time.monotonic()
                if self._is_reading:
                    if left <= 0 or not self._turn.wait(None if left == math.inf else left):
                        break
                    continue
                is_ready = self._read(max(0.0, left))
                if not is_ready and left <= 0:
                    break
            return handle.ended is not None

    def _read(self, seconds: float) -> bool:
        """Waits with the lock released, then takes in what has arrived; False if nothing has."""
        self._is_reading = True
        self._turn.release()
        try:
            ready = wait_for([self._channel], None if seconds == math.inf else seconds)
        finally:
            self._turn.acquire()
            self._is_reading = False
            self._turn.notify_all()
        if ready and not self._is_closed:
            self._receive()
        return bool(ready)

    def _receive(self) -> None:
        try:
            messages = self._channel.receive()
        except EOFError:
            self._bury()
            return
        for message in messages:
            handle = self._open[message["id"]]
            if "progress" in message:
                handle.told = message["progress"]
                continue
            outcome = _outcome(message)
            self._note(outcome)
            if "retried" not in message:
                self._open.pop(message["id"]).ended = outcome

    def _note(self, outcome: TaskOutcome) -> None:
        """An attempt becomes part of the health of the worker that made it."""
        if outcome.worker is not None:
            before = self._health.get(outcome.worker, WorkerHealth(outcome.worker))
            told = (outcome.status, outcome.message, outcome.seconds, outcome.peak_bytes)
            self._health[outcome.worker] = before.after(*told)

    def _bury(self) -> None:
        self._end()
        code = self._supervisor.returncode
        self._settle(
            TaskOutcome(Status.LOST, message=f"The supervisor of the workers ended with exit code {code}.")
        )

    def _settle(self, outcome: TaskOutcome) -> None:
        for handle in self._open.values():
            handle.ended = outcome
        self._open.clear()


class LocalHandle:
    """A task in a `LocalPool`."""

    def __init__(
        self,
        wait: Callable[[LocalHandle, float | None], bool],
        cancel: Callable[[LocalHandle], None],
        number: int,
    ) -> None:
        self._wait = wait
        self._cancel = cancel
        self.number = number
        self.told = 0.0
        self.ended: TaskOutcome | None = None

    @property
    def progress(self) -> float:
        self.is_over()
        return 1.0 if self.ended is not None and self.ended.is_done else self.told

    def is_over(self) -> bool:
        return self.wait(0.0)

    def wait(self, timeout_seconds: float | None = None) -> bool:
        return self._wait(self, timeout_seconds)

    def outcome(self) -> TaskOutcome:
        self.wait()
        if self.ended is None:
            raise AnalysisError("This task belongs to the process that submitted it, not to a fork of that.")
        return self.ended

    def cancel(self) -> None:
        self._cancel(self)


def _outcome(message: dict[str, Any]) -> TaskOutcome:
    return TaskOutcome(
        status=Status(message["status"]),
        value=from_plain(message["value"]),
        message=message["message"],
        attempts=message["attempts"],
        seconds=message["seconds"],
        worker=message["worker"],
        peak_bytes=message["peak_bytes"],
    )


def _end(supervisor: subprocess.Popen[bytes], channel: Channel, owner: int) -> None:
    """Ends the supervisor, and with it the workers, which it buries; only in the process that started it."""
    if os.getpid() != owner:
        supervisor.returncode = 0  # not a child of this process, so never to be waited for here
        channel.close()
        return
    channel.shutdown()
    supervisor.terminate()
    try:
        supervisor.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        supervisor.kill()
        supervisor.wait()
