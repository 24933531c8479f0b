"""The process that serves one pool: it hands out tasks and kills what is over its deadline.

It is a fork of a fresh interpreter, not of the trainer: it holds no keys, no user objects and no GPU context,
and never runs the user's main script. Workers are forks of it and start in milliseconds.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Any

from esper.workers import processes
from esper.workers.alarm import Alarm
from esper.workers.channel import BrokenMessage, Channel, wait_for
from esper.workers.crew import Crew, Job, Worker
from esper.workers.task import Ending

LOOK_AT_PARENT_SECONDS = 1.0
"""How often a process looks whether its parent lives, where the system does not tell of its end."""


class Supervisor:
    """Serves one pool until the trainer hangs up, or says so by SIGTERM, or the parent process ends.

    Args:
        trainer: Channel to the pool.
        parent: Process id of the parent.
    """

    def __init__(self, trainer: Channel, parent: int) -> None:
        self._trainer = trainer
        self._parent = parent
        self._num_workers = 0  # until the trainer says how many
        self._alarm = Alarm()
        self._crew = Crew(self._alarm, trainer)
        self._queue: deque[Job] = deque()
        self._is_over = False

    def run(self) -> None:
        processes.adopt_orphans()
        processes.end_with(self._parent, signal.SIGTERM)
        self._trainer.send({"supervisor": os.getpid()})
        try:
            while not (self._is_over or self._alarm.is_told_to_end) and os.getppid() == self._parent:
                self._hand_out()
                self._hear()
                self._mourn()
                self._expire()
        finally:
            self._crew.end()
            self._trainer.close()
            self._alarm.close()

    def _hand_out(self) -> None:
        while self._queue:
            worker = next((worker for worker in self._crew.workers if worker.is_idle), None)
            if worker is None:
                if len(self._crew.workers) >= self._num_workers:
                    return
                worker = self._crew.fork()
            job = self._queue.popleft()
            job.attempts += 1
            job.started = time.monotonic()
            worker.job = job
            worker.channel.send(
                {name: job.request[name] for name in ("function", "arguments", "memory_bytes")}
            )

    def _hear(self) -> None:
        workers = {worker.channel: worker for worker in self._crew.workers if worker.channel.is_open}
        for ready in wait_for([self._alarm, self._trainer, *workers], self._patience_seconds()):
            ready.flush()
            if ready is self._trainer:
                self._hear_trainer()
            elif isinstance(ready, Channel) and ready.is_open:  # its worker was not canceled just now
                self._hear_worker(workers[ready])

    def _patience_seconds(self) -> float:
        deadlines = [worker.job.deadline for worker in self._crew.workers if worker.job]
        return min([LOOK_AT_PARENT_SECONDS, *(deadline - time.monotonic() for deadline in deadlines)])

    def _hear_trainer(self) -> None:
        try:
            for message in self._trainer.receive():
                if "cancel" in message:
                    self._cancel(message["cancel"])
                elif "num_workers" in message:
                    self._settle(**message)
                else:
                    self._queue.append(Job(message))
        except EOFError:
            self._is_over = True

    def _settle(self, num_workers: int, path: list[str], folder: str | None, environ: dict[str, str]) -> None:
        """Takes over what a child of the trainer would have inherited now, not when the imports began."""
        self._num_workers = num_workers
        sys.path[:] = path
        importlib.invalidate_caches()
        os.environ.clear()
        os.environ.update(environ)
        if folder is not None:
            with suppress(OSError):  # it was removed since
                os.chdir(folder)

    def _hear_worker(self, worker: Worker) -> None:
        try:
            for message in worker.channel.receive():
                self._take(worker, message)
        except EOFError:
            self._crew.hang_up(worker)
        except BrokenMessage as error:
            self._crew.kill(worker)
            self._fail(worker, Ending.LOST, f"Its process wrote into the channel of its results. {error}")

    def _take(self, worker: Worker, message: dict[str, Any]) -> None:
        if worker.job is None:
            return
        is_out_of_memory = message["ending"] == Ending.MEMORY
        if is_out_of_memory:
            self._fail(worker, Ending.MEMORY, message["message"], message["peak_bytes"])
        else:
            job, worker.job = worker.job, None
            told = (Ending(message["ending"]), message["value"], message["message"])
            self._tell(job, *told, worker.number, message["peak_bytes"])
        # A worker without memory is not to be trusted, and processes that a task has started end with it.
        if is_out_of_memory or message["has_children"]:
            self._crew.kill(worker)

    def _mourn(self) -> None:
        for worker, epitaph in self._crew.dead():
            with suppress(EOFError, BrokenMessage):  # it may have ended its task before it died
                for message in worker.channel.receive():
                    self._take(worker, message)
            worker.channel.close()
            self._fail(worker, Ending.LOST, f"Its process {epitaph} in the middle of the task.")

    def _expire(self) -> None:
        now = time.monotonic()
        for worker in list(self._crew.workers):
            if worker.job and now >= worker.job.deadline:
                self._crew.kill(worker)
                limit = worker.job.request["deadline_seconds"]
                self._fail(worker, Ending.TIMEOUT, f"It was not done after {limit:g} seconds and was killed.")

    def _cancel(self, number: int) -> None:
        for job in [job for job in self._queue if job.request["id"] == number]:
            self._queue.remove(job)
            self._tell(job, Ending.CANCELED, None, "It was canceled before it began.")
        for worker in list(self._crew.workers):
            if worker.job and worker.job.request["id"] == number:
                self._crew.kill(worker)
                self._tell(worker.job, Ending.CANCELED, None, "It was canceled and killed.", worker.number)

    def _fail(self, worker: Worker, ending: Ending, message: str, peak_bytes: int | None = None) -> None:
        """The dead worker's job, if it had one, gets another attempt or its outcome."""
        job, worker.job = worker.job, None
        if job is None:
            return
        if job.attempts <= job.request["retries"]:
            self._queue.append(job)
            self._trainer.send(
                {"retried": True, **_ended(job, ending, None, message, worker.number, peak_bytes)}
            )
        else:
            self._tell(job, ending, None, message, worker.number, peak_bytes)

    def _tell(
        self,
        job: Job,
        ending: Ending,
        value: Any,
        message: str,
        worker: int | None = None,
        peak_bytes: int | None = None,
    ) -> None:
        self._trainer.send(_ended(job, ending, value, message, worker, peak_bytes))


def _ended(
    job: Job, ending: Ending, value: Any, message: str, worker: int | None, peak_bytes: int | None
) -> dict[str, Any]:
    """How an attempt ended, for the trainer."""
    return {
        "id": job.request["id"],
        "ending": ending,
        "value": value,
        "message": message,
        "attempts": job.attempts,
        "seconds": time.monotonic() - job.started if job.attempts else 0.0,
        "worker": worker,
        "peak_bytes": peak_bytes,
    }
