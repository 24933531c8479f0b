"""The process that has imported what tasks need and then forks a supervisor for every pool that opens.

It is a fresh interpreter, or a copy of a trainer that has one thread and no GPU (`copying`): it has one
thread, so that a fork of it is a whole process. It ends with the trainer. What a supervisor leaves behind
comes to it and is killed.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Sequence
from typing import NoReturn

from esper.garbage import imported
from esper.workers import processes
from esper.workers.alarm import Alarm
from esper.workers.channel import Channel, wait_for
from esper.workers.supervisor import LOOK_AT_PARENT_SECONDS, Supervisor

NICENESS = 10
"""The trainer trains meanwhile, and is not to notice."""

_PATIENCE_SECONDS = 1.5
"""More than supervisors take to end."""


def main(number: int, trainer: int, preload: Sequence[str]) -> None:
    """Serves the pools of one trainer until it needs none any more, dies, or says so by SIGTERM.

    Args:
        number: File descriptor of the socket on which the trainer asks.
        trainer: Its process id.
        preload: Modules to import before the first fork; they must start no thread and touch no GPU.
    """
    parent = os.getppid()  # the trainer, or the program by which it starts interpreters
    if not _exists(trainer):
        return
    os.nice(NICENESS)  # while it imports, too
    _import(preload, parent)
    gc.collect()
    gc.freeze()  # so that collections in a worker do not copy the pages of what was imported
    serve(number, parent)


def serve(number: int, parent: int) -> NoReturn:
    """Forks supervisors until the parent needs none any more, dies, or says so by SIGTERM; then ends."""
    zygote = Zygote(Requests(socket.socket(fileno=number)), parent)
    zygote.run()
    os._exit(0)  # taking torch apart would take longer than a trainer should wait


class Requests:
    """Wishes for supervisors: each is an end of a channel, and where errors are written."""

    is_behind = False

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end

    def fileno(self) -> int:
        return self._socket.fileno()

    def flush(self) -> None:
        """Nothing is ever written."""

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> list[int]:
        """The two file descriptors of a request, none if there is no request.

        Raises:
            EOFError: The trainer needs nothing any more.
        """
        try:
            data, descriptors, *_ = socket.recv_fds(self._socket, 1, 2)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError
        return descriptors


class Zygote:
    """Forks supervisors, and buries them and what they leave behind.

    Args:
        requests: Of the trainer.
        parent: Process id of the parent; when that ends, so does this process.
    """

    def __init__(self, requests: Requests, parent: int) -> None:
        self._requests = requests
        self._parent = parent
        self._alarm = Alarm()
        self._supervisors: dict[int, Channel] = {}
        self._is_over = False

    def run(self) -> None:
        processes.adopt_orphans()
        while not (self._is_over or self._alarm.is_told_to_end) and os.getppid() == self._parent:
            for ready in wait_for([self._alarm, self._requests], LOOK_AT_PARENT_SECONDS):
                ready.flush()
            self._hear()
            self._bury()
        for pid in self._supervisors:
            os.kill(pid, signal.SIGTERM)
        processes.wait_for_children(self._alarm, _PATIENCE_SECONDS)
        processes.kill_children(self._alarm, _PATIENCE_SECONDS)

    def _hear(self) -> None:
        try:
            while descriptors := self._requests.receive():
                self._fork(*descriptors)
        except EOFError:
            self._is_over = True

    def _fork(self, number: int, standard_error: int) -> None:
        trainer = Channel(socket.socket(fileno=number))
        zygote = os.getpid()

        def work() -> None:
            self._alarm.close()
            self._requests.close()
            for channel in self._supervisors.values():
                channel.close()
            os.dup2(standard_error, 2)
            os.close(standard_error)
            Supervisor(trainer, zygote).run()

        self._supervisors[processes.fork(work)] = trainer  # kept open to say how the supervisor ended
        os.close(standard_error)

    def _bury(self) -> None:
        statuses = processes.ended_children()
        dead = {pid: self._supervisors.pop(pid) for pid in statuses if pid in self._supervisors}
        if statuses:
            processes.kill_strays(known=self._supervisors)
        for pid, trainer in dead.items():
            trainer.send({"epitaph": processes.epitaph(statuses[pid])})
            trainer.close()


def _import(modules: Sequence[str], parent: int) -> None:
    """Imports modules, which can take many seconds, and ends the process if its parent ends meanwhile."""

    def look(*_: object) -> None:
        if os.getppid() != parent:
            os._exit(1)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_AT_PARENT_SECONDS, LOOK_AT_PARENT_SECONDS)
    for module in modules:
        imported(module)
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
