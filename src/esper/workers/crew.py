"""The worker processes of one supervisor: forking, killing and burying them, and hearing of their death."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from esper.workers.channel import Channel
from esper.workers.worker import serve


@dataclass(eq=False)
class Job:
    """One task on its way: the trainer's request, and what became of it so far."""

    request: dict[str, Any]
    attempts: int = 0
    started: float = 0.0

    @property
    def deadline(self) -> float:
        return self.started + float(self.request["deadline_seconds"])


@dataclass(eq=False)
class Worker:
    """One worker process and the job that it has, if any; `number` is its place in the crew."""

    number: int
    pid: int
    channel: Channel
    job: Job | None = None


class Alarm:
    """Makes the signals of this process something to wait for: a dead child, or the wish that we end."""

    is_behind = False

    def __init__(self) -> None:
        self._heard, self._rings = socket.socketpair()
        self._heard.setblocking(False)
        self._rings.setblocking(False)
        self.is_told_to_end = False
        signal.signal(signal.SIGTERM, self._on_end)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only a signal with a handler rings
        signal.set_wakeup_fd(self._rings.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        return self._heard.fileno()

    def flush(self) -> None:
        with suppress(BlockingIOError):
            while self._heard.recv(4096):
                pass

    def close_in_child(self) -> None:
        """Gives a fork its own, default signals."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._heard.close()
        self._rings.close()

    def _on_end(self, *_: object) -> None:
        self.is_told_to_end = True


class Crew:
    """All worker processes.

    Args:
        alarm: Closed in every worker.
        trainer: Closed in every worker too, so that only the supervisor holds it.
    """

    def __init__(self, alarm: Alarm, trainer: Channel) -> None:
        self.workers: list[Worker] = []
        self._alarm = alarm
        self._trainer = trainer
        self._dying: list[int] = []

    def fork(self) -> Worker:
        """A new worker, ready for a job."""
        ours, theirs = (Channel(end) for end in socket.socketpair())
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._alarm.close_in_child()
            for channel in (self._trainer, ours, *(worker.channel for worker in self.workers)):
                channel.close()
            _live(theirs, supervisor)
        theirs.close()
        with suppress(ProcessLookupError):
            os.setpgid(pid, pid)  # what it starts goes with it when it is killed
        taken = {worker.number for worker in self.workers}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        self.workers.append(Worker(number, pid, ours))
        return self.workers[-1]

    def kill(self, worker: Worker) -> None:
        """Kills it and whatever it started, without waiting for the end."""
        _kill(worker.pid)
        self._forget(worker)
        self._dying.append(worker.pid)

    def bury(self, worker: Worker) -> str:
        """Kills it if it is still there, waits for its end, and says what it died of."""
        _kill(worker.pid)
        self._forget(worker)
        return _epitaph(os.waitpid(worker.pid, 0)[1])

    def dead(self) -> list[tuple[Worker, str]]:
        """Workers that died by themselves since the last call, and of what; they are gone from `workers`."""
        self._dying = [pid for pid in self._dying if os.waitpid(pid, os.WNOHANG)[0] == 0]
        found = []
        for worker in list(self.workers):
            pid, status = os.waitpid(worker.pid, os.WNOHANG)
            if pid:
                self.workers.remove(worker)
                found.append((worker, _epitaph(status)))
        return found

    def end(self) -> None:
        """Kills and buries everybody."""
        for pid in [*self._dying, *(worker.pid for worker in self.workers)]:
            _kill(pid)
        for pid in [*self._dying, *(worker.pid for worker in self.workers)]:
            os.waitpid(pid, 0)

    def _forget(self, worker: Worker) -> None:
        worker.channel.close()
        self.workers.remove(worker)


def _live(channel: Channel, supervisor: int) -> NoReturn:
    """A fork must not run on into its parent's code, whatever happens in it."""
    code = 1
    try:
        serve(channel, supervisor)
        code = 0
    finally:
        if code:
            traceback.print_exc(file=sys.stderr)
            sys.stderr.flush()
        os._exit(code)


def _kill(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _epitaph(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"Its process ended with exit code {code} in the middle of the task."
    name = signal.Signals(-code).name
    hint = " (which is how the system frees memory when it runs out)" if name == "SIGKILL" else ""
    return f"Its process was killed by {name}{hint}."
