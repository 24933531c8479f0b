"""Tasks that worker tests run: some work, some do what workers must survive. None of them needs torch."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

PRELOAD = (__name__,)
"""For pools that run these tasks."""


@dataclass(frozen=True)
class Shard:
    """A reference to arrays in a file."""

    file: Path
    names: tuple[str, ...]


@dataclass(frozen=True)
class Sums:
    """What `sums` returns."""

    by_name: dict[str, float]
    array: NDArray[np.float64]


@dataclass(frozen=True)
class Halves:
    """What `halved` returns."""

    numbers: list[float]
    array: NDArray[np.float64] | None


@dataclass(frozen=True)
class Once:
    """Can be made once only: not again where the result of a task arrives."""

    marker: Path

    def __post_init__(self) -> None:
        self.marker.touch(exist_ok=False)


def echo(value: Any) -> Any:
    return value


def halved(numbers: list[float], array: NDArray[np.float64] | None = None) -> Halves:
    return Halves([number / 2 for number in numbers], None if array is None else array / 2)


def sums(shard: Shard) -> Sums:
    with np.load(shard.file) as arrays:
        by_name = {name: float(arrays[name].sum()) for name in shard.names}
    return Sums(by_name, np.array(list(by_name.values())))


def fail(text: str) -> NoReturn:
    raise ValueError(text)


def leave() -> NoReturn:
    sys.exit(3)


def unsendable() -> object:
    return {1, 2}


def once(marker: Path) -> Once:
    return Once(marker)


def crash(how: str | int) -> None:
    """Ends its process, by a signal if `how` is a number."""
    if isinstance(how, int):
        os.kill(os.getpid(), how)
    os._exit(3)


def crash_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os._exit(3)
    return "second time"


def hang() -> None:
    signal.sigwait({signal.SIGUSR1})


def say_and_hang(pipe: Path) -> None:
    """Tells its process id to whoever reads the named pipe, and hangs."""
    pipe.write_text(str(os.getpid()))
    hang()


_left: list[subprocess.Popen[bytes]] = []  # kept, because Popen warns when it is collected too early


def spawn(pipe: Path, how: str, then: str) -> None:
    """Starts a process that would live on, tells its id to whoever reads the named pipe, and goes on as told.

    The process is in the group of the worker, in a session of its own, or a daemon in a session of its own,
    whose parent has ended.
    """
    if how == "daemon":
        script = "sleep 600 > /dev/null & echo $!"
        told = subprocess.run(
            ["sh", "-c", script], stdout=subprocess.PIPE, check=True, start_new_session=True
        )
        pid = int(told.stdout)
    else:
        _left.append(subprocess.Popen(["sleep", "600"], start_new_session=how == "session"))
        pid = _left[-1].pid
    pipe.write_text(str(pid))
    if then == "hang":
        hang()
    elif then == "crash":
        os._exit(3)


def write_everywhere(text: bytes) -> str:
    """What a program does that prints to a wrong file descriptor."""
    for number in range(3, 256):
        try:
            os.write(number, text)
        except OSError:
            continue
    return "done"


def close_everything() -> str:
    """What a program does that makes itself a daemon."""
    os.closerange(3, 256)
    return "done"


def fork_and_return() -> int:
    """Forgets that the copy of the process returns too."""
    os.fork()
    return os.getpid()


def allocate(num_bytes: int) -> int:
    return len(b"x" * num_bytes)


def say_on_standard_error(text: str) -> None:
    os.write(2, text.encode())


def surroundings() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "niceness": os.nice(0),
        "oom_score": int(Path("/proc/self/oom_score_adj").read_text()),
        "threads": len(list(Path("/proc/self/task").iterdir())),
        "core_bytes": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "main": getattr(sys.modules["__main__"], "__file__", None),
        "folder": str(Path.cwd()),
        "variable": os.environ.get("OF_THE_TEST"),
        "open_files": sorted(str(f.readlink()) for f in Path("/proc/self/fd").iterdir() if f.exists()),
    }
