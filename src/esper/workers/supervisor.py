"""The process between trainer and workers: it hands out tasks and kills what is over its deadline.

It is a fresh interpreter, not a copy of the trainer: it holds no keys, no user objects and no GPU context,
has torch imported once, and never runs the user's main script. Workers are forks of it and start in
milliseconds.
"""

from __future__ import annotations

import gc
import os
import socket
import time
from collections import deque
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from esper.workers.channel import Channel, wait_for
from esper.workers.crew import Alarm, Crew, Job, Worker
from esper.workers.task import Status

_RETRIED = (Status.LOST, Status.TIMEOUT, Status.MEMORY)
_LOOK_AT_PARENT_SECONDS = 5.0
_NICENESS = 10


def main(number: int, num_workers: int, preload: Sequence[str]) -> None:
    """Runs a supervisor in this process until its trainer needs it no more.

    Args:
        number: File descriptor of the socket to the trainer.
        num_workers: How many workers may run at once.
        preload: Modules to import before the first fork; they must start no thread and touch no GPU.
    """
    for module in preload:
        import_module(module)
    os.nice(_NICENESS)  # not before: a trainer that has to wait for the imports should not wait long
    gc.collect()
    gc.freeze()  # so that collections in a worker do not copy the pages of what was imported
    supervisor = Supervisor(Channel(socket.socket(fileno=number)), num_workers)
    supervisor.run()
    os._exit(0)  # nothing is left to tidy up, and taking torch apart takes longer than a trainer should wait


class Supervisor:
    """Serves one trainer until it hangs up, dies, or says so by SIGTERM.

    Args:
        trainer: Channel to it.
        num_workers: How many workers may run at once.
    """

    def __init__(self, trainer: Channel, num_workers: int) -> None:
        self._trainer = trainer
        self._num_workers = num_workers
        self._alarm = Alarm()
        self._crew = Crew(self._alarm, trainer)
        self._queue: deque[Job] = deque()
        self._is_over = False
        self._parent = os.getppid()

    def run(self) -> None:
        try:
            while not (self._is_over or self._alarm.is_told_to_end) and os.getppid() == self._parent:
                self._hand_out()
                self._hear()
                self._mourn()
                self._expire()
        finally:
            self._crew.end()

    def _hand_out(self) -> None:
        while self._queue:
            worker = next((worker for worker in self._crew.workers if worker.job is None), None)
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
        workers = {worker.channel: worker for worker in self._crew.workers}
        for ready in wait_for([self._alarm, self._trainer, *workers], self._patience_seconds()):
            ready.flush()
            if ready is self._trainer:
                self._hear_trainer()
            elif isinstance(ready, Channel) and workers[ready] in self._crew.workers:  # not canceled just now
                self._hear_worker(workers[ready])

    def _patience_seconds(self) -> float:
        deadlines = [worker.job.deadline for worker in self._crew.workers if worker.job]
        return min([_LOOK_AT_PARENT_SECONDS, *(deadline - time.monotonic() for deadline in deadlines)])

    def _hear_trainer(self) -> None:
        try:
            messages = self._trainer.receive()
        except EOFError:
            self._is_over = True
            return
        for message in messages:
            if "cancel" in message:
                self._cancel(message["cancel"])
            else:
                self._queue.append(Job(message))

    def _hear_worker(self, worker: Worker) -> None:
        try:
            messages = worker.channel.receive()
        except EOFError:
            self._fail(worker, Status.LOST, self._crew.bury(worker))
            return
        for message in messages:
            self._take(worker, message)

    def _take(self, worker: Worker, message: dict[str, Any]) -> None:
        if worker.job is None:
            return
        if "progress" in message:
            self._trainer.send({"id": worker.job.request["id"], "progress": message["progress"]})
        elif message["status"] == Status.MEMORY:
            if worker in self._crew.workers:
                self._crew.kill(worker)  # what is left of it is not to be trusted
            self._fail(worker, Status.MEMORY, message["message"], message["peak_bytes"])
        else:
            job, worker.job = worker.job, None
            told = (Status(message["status"]), message["value"], message["message"])
            self._tell(job, *told, worker.number, message["peak_bytes"])

    def _mourn(self) -> None:
        for worker, epitaph in self._crew.dead():
            try:
                for message in worker.channel.receive():  # it may have ended its task before it died
                    self._take(worker, message)
            except EOFError:
                pass
            worker.channel.close()
            self._fail(worker, Status.LOST, epitaph)

    def _expire(self) -> None:
        now = time.monotonic()
        for worker in list(self._crew.workers):
            if worker.job and now >= worker.job.deadline:
                self._crew.kill(worker)
                limit = worker.job.request["deadline_seconds"]
                self._fail(worker, Status.TIMEOUT, f"It was not done after {limit:g} seconds and was killed.")

    def _cancel(self, number: int) -> None:
        for job in [job for job in self._queue if job.request["id"] == number]:
            self._queue.remove(job)
            self._tell(job, Status.CANCELED, None, "It was canceled before it began.")
        for worker in list(self._crew.workers):
            if worker.job and worker.job.request["id"] == number:
                self._crew.kill(worker)
                self._tell(worker.job, Status.CANCELED, None, "It was canceled and killed.", worker.number)

    def _fail(self, worker: Worker, status: Status, message: str, peak_bytes: int | None = None) -> None:
        """The dead worker's job, if it had one, gets another attempt or its outcome."""
        job, worker.job = worker.job, None
        if job is None:
            return
        if job.attempts <= job.request["retries"]:
            self._queue.append(job)
            self._trainer.send(
                {"retried": True, **_ended(job, status, None, message, worker.number, peak_bytes)}
            )
        else:
            self._tell(job, status, None, message, worker.number, peak_bytes)

    def _tell(
        self,
        job: Job,
        status: Status,
        value: Any,
        message: str,
        worker: int | None = None,
        peak_bytes: int | None = None,
    ) -> None:
        self._trainer.send(_ended(job, status, value, message, worker, peak_bytes))


def _ended(
    job: Job, status: Status, value: Any, message: str, worker: int | None, peak_bytes: int | None
) -> dict[str, Any]:
    """How an attempt ended, for the trainer."""
    return {
        "id": job.request["id"],
        "status": status,
        "value": value,
        "message": message,
        "attempts": job.attempts,
        "seconds": time.monotonic() - job.started if job.attempts else 0.0,
        "worker": worker,
        "peak_bytes": peak_bytes,
    }
