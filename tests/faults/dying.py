"""A storage whose process is killed by SIGKILL at a chosen call, and a process that lives until then."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from esper.checkpoint import FaultyStorage
from esper.errors import EsperError
from tests.faults.life import Life
from tests.faults.lives import LIVES
from tests.faults.traced import stop_to_be_traced

NEVER = 1 << 30
FORESEEN = 3
"""Exit code of a process whose life ended with an error that says what, where and what to do."""


class DeadlyStorage(FaultyStorage):
    """Sends SIGKILL to its own process instead of making call number `fail_at`."""

    def _count(self, call: str, *, takes_space: bool = True) -> None:
        self.calls.append(call)
        if len(self.calls) == self.fail_at:
            os.kill(os.getpid(), signal.SIGKILL)


def work(name: str, root: Path, fail_at: int, told: Path, begun: Path | None = None) -> None:
    """Lives until call number `fail_at`; notes in `told` what it has acknowledged, however it ends.

    Whoever reads the pipe `begun` waits until it begins.
    """
    if begun is not None:
        begun.write_bytes(b"")
    descriptor = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def tell(words: str) -> None:
        os.write(descriptor, words.encode())

    try:
        life_of(name).act(root, DeadlyStorage(fail_at), tell)
    except (EsperError, OSError):
        os._exit(FORESEEN)
    os.close(descriptor)


def work_traced(name: str, root: Path, told: Path) -> None:
    """Lives to the end, as soon as somebody traces it."""
    stop_to_be_traced()
    work(name, root, NEVER, told)


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Starts `work` or `work_traced` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.dying"])
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def life_of(name: str) -> Life:
    """A life by its name; that of a whole run is imported only where it is wanted: it takes seconds."""
    if name != "run":
        return LIVES[name]
    from tests.faults.trained import RUN

    return RUN


def number_of_calls(name: str, folder: Path) -> int:
    """How many calls a whole life makes."""
    root = folder / f"whole-{name}"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    storage = FaultyStorage(fail_at=0)
    LIVES[name].act(root, storage, lambda _: None)
    return len(storage.calls)
