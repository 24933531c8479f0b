"""The trainer's side of the process that workers are forked from: starting it, sharing it, ending it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import send_fds, socket, socketpair
from typing import Any

from esper.garbage import imported
from esper.workers.channel import BrokenMessage, Channel, wait_for
from esper.workers.copying import Copy, can_copy
from esper.workers.zygote import NICENESS, serve

_START = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given.pop('path'); "
    "from esper.workers.zygote import main; main(**given)"
)
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_PATIENCE_SECONDS = 2.0
"""More than supervisors and their parent take to end."""

_turn = threading.RLock()
_living: list[ZygoteHandle] = []


def connect(num_workers: int, preload: Sequence[str], *, may_copy: bool = False) -> Line:
    """A supervisor of its own, forked from a process that has imported at least `preload`.

    Pools share that process if what it has imported is enough for them; it ends with the last of them.

    Args:
        num_workers: of the pool.
        preload: what tasks need.
        may_copy: whether that process may be a copy of this one, if one can be made; it then imports here.
    """
    with _turn:
        zygote = next((zygote for zygote in _living if zygote.serves(preload)), None)
        if zygote is None:
            zygote = ZygoteHandle(preload, is_copy=may_copy and can_copy())
            _living.append(zygote)
        return zygote.connect(num_workers)


class Line:
    """The trainer's end of one supervisor.

    Args:
        zygote: The process that forks the supervisor.
        channel: To the supervisor.
    """

    def __init__(self, zygote: ZygoteHandle, channel: Channel) -> None:
        self.channel = channel
        self.pid: int | None = None
        """The supervisor's process id, once it has started and said so."""

        self._zygote = zygote
        self._epitaph = ""

    def receive(self) -> Iterator[dict[str, Any]]:
        """What the supervisor has said of its tasks.

        Raises:
            EOFError: After the last message: it has ended.
            BrokenMessage: After the last message: it said something that is none.
        """
        for message in self.channel.receive():
            self.pid = message.get("supervisor", self.pid)
            self._epitaph = message.get("epitaph", self._epitaph)
            if "id" in message:
                yield message

    def end(self) -> str:
        """Ends the supervisor and with it its workers; says how. A fork of the trainer only lets go."""
        if not self._zygote.is_mine:
            self.channel.close()
            self._zygote.disown()
            return ""
        self.channel.hang_up()
        is_over = self._hear_out(0.0)
        if self.pid is not None:  # otherwise it does not exist yet, and will see that nobody needs it
            is_over = is_over or self._hear_out(_PATIENCE_SECONDS)
            if not is_over:
                os.kill(self.pid, signal.SIGKILL)
                is_over = self._hear_out(_PATIENCE_SECONDS)
        self.channel.close()
        # A supervisor is buried by its parent, which tells of it, unless the parent has ended itself.
        code = self._zygote.exit_code() if is_over and not self._epitaph else None
        self._zygote.leave()
        if code is None:
            return f"The supervisor of the workers {self._epitaph or 'has gone'}."
        return f"The process that workers are forked from ended with exit code {code}."

    def _hear_out(self, seconds: float) -> bool:
        """Drops what is still said, at most for so long; returns whether the other end has closed."""
        end = time.monotonic() + seconds
        while wait_for([self.channel], end - time.monotonic()):
            try:
                for _ in self.receive():
                    pass
            except (EOFError, BrokenMessage):
                return True
        return False


class ZygoteHandle:
    """A process that has imported modules and forks a supervisor for every pool that wants one."""

    def __init__(self, preload: Sequence[str], *, is_copy: bool = False) -> None:
        self._preload = frozenset(preload)
        self._owner = os.getpid()
        self._num_lines = 0
        if is_copy:
            for module in preload:
                imported(module)
        self._requests, theirs = _pair()
        begin = _copied if is_copy else _interpreter
        with theirs, _standard_error() as standard_error:
            self.process = begin(theirs.fileno(), preload, standard_error)

    @property
    def is_mine(self) -> bool:
        """Whether this process has started it, and is not a fork of the one that has."""
        return self._owner == os.getpid()

    def serves(self, preload: Sequence[str]) -> bool:
        return self.is_mine and self._preload.issuperset(preload) and self.process.poll() is None

    def connect(self, num_workers: int) -> Line:
        """A new supervisor, or the promise of one while the imports still go on."""
        ours, theirs = _pair()
        line = Line(self, Channel(ours))
        line.channel.send(
            {
                "num_workers": num_workers,
                "path": _search_path(),
                "folder": _folder(),
                "environ": {**os.environ, **_ONE_THREAD},
            }
        )
        with theirs, _standard_error() as standard_error, suppress(OSError):
            send_fds(self._requests, [b"+"], [theirs.fileno(), standard_error])
        self._num_lines += 1
        return line

    def leave(self) -> None:
        """One pool needs it no more; the last one ends it."""
        with _turn:
            self._num_lines -= 1
            if self._num_lines:
                return
            _living.remove(self)
        self._requests.close()
        self.process.terminate()
        if self.exit_code(_PATIENCE_SECONDS) is None:
            self.process.kill()
            self.process.wait()

    def exit_code(self, patience_seconds: float = 1.0) -> int | None:
        """How it ended; None if it does not within that time."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(patience_seconds)
        return None

    def disown(self) -> None:
        """It is not a child of this fork of the trainer, so it is never waited for here."""
        self._requests.close()
        self.process.returncode = 0


def _copied(number: int, _: Sequence[str], standard_error: int) -> Copy:
    trainer = os.getpid()

    def work() -> None:
        os.nice(NICENESS)
        serve(number, trainer)

    return Copy(work, keep=[number], standard_error=standard_error)


def _interpreter(number: int, preload: Sequence[str], standard_error: int) -> subprocess.Popen[bytes]:
    given = {"path": _search_path(), "number": number, "trainer": os.getpid(), "preload": tuple(preload)}
    return subprocess.Popen(
        [sys.executable, "-c", _START, json.dumps(given)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=standard_error,
        pass_fds=[number],
        env={**os.environ, **_ONE_THREAD},
        # A group of its own: an interrupt from the keyboard is for the trainer to handle. Not a
        # session of its own: Linux shares the processor out between sessions before niceness counts.
        process_group=0,
    )


def _pair() -> tuple[socket, socket]:
    """Two ends of a stream, clear of the numbers of the standard streams, which a program may have closed."""
    ends = []
    for end in socketpair():
        with end:
            ends.append(socket(fileno=fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3)))
    return ends[0], ends[1]


@contextmanager
def _standard_error() -> Iterator[int]:
    """File descriptor of standard error, or of a file that leads nowhere if the program has closed it."""
    try:
        os.fstat(2)
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            yield nowhere.fileno()
    else:
        yield 2


def _search_path() -> list[str]:
    return [str(Path(entry).absolute()) for entry in sys.path]


def _folder() -> str | None:
    with suppress(OSError):  # it has been removed
        return str(Path.cwd())
    return None
