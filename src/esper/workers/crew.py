"""The worker processes of one supervisor: starting, killing and burying them, and hearing of their death."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from esper.workers import processes
from esper.workers.alarm import Alarm
from esper.workers.channel import Channel
from esper.workers.worker import serve

_PATIENCE_SECONDS = 1.0


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

    @property
    def is_idle(self) -> bool:
        return self.job is None and self.channel.is_open


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

    def fork(self) -> Worker:
        """A new worker, ready for a job."""
        ours, theirs = (Channel(end) for end in socket.socketpair())
        supervisor = os.getpid()

        def work() -> None:
            self._alarm.close()
            for channel in (self._trainer, ours, *(worker.channel for worker in self.workers)):
                channel.close()
            serve(theirs, supervisor)

        pid = processes.fork(work)
        theirs.close()
        with suppress(ProcessLookupError):
            os.setpgid(pid, pid)  # what it starts goes with it when it is killed
        taken = {worker.number for worker in self.workers}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        self.workers.append(Worker(number, pid, ours))
        return self.workers[-1]

    def kill(self, worker: Worker) -> None:
        """Kills it and whatever it started, without waiting for the end; nothing if it is gone already."""
        if worker in self.workers:
            processes.kill(worker.pid)
            worker.channel.close()
            self.workers.remove(worker)

    def hang_up(self, worker: Worker) -> None:
        """Hears it no more, and makes sure that it dies, if it has not yet, and is told by `dead`."""
        if worker in self.workers:
            processes.kill(worker.pid)
            worker.channel.close()

    def dead(self) -> list[tuple[Worker, str]]:
        """Workers that died by themselves since the last call, and of what; they are gone from `workers`.

        What any worker, killed ones too, has left behind is killed.
        """
        statuses = processes.ended_children()
        if statuses:
            for pid in statuses:
                processes.kill_group(pid)  # what a worker started, where orphans are not adopted
            processes.kill_strays(known=[worker.pid for worker in self.workers])
        dead = [worker for worker in self.workers if worker.pid in statuses]
        for worker in dead:
            self.workers.remove(worker)
        return [(worker, processes.epitaph(statuses[worker.pid])) for worker in dead]

    def end(self) -> None:
        """Kills and buries everybody."""
        for worker in self.workers:
            processes.kill(worker.pid)
            worker.channel.close()
        processes.kill_children(self._alarm, _PATIENCE_SECONDS)
