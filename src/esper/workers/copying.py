"""Starting the process that workers are forked from as a copy of the trainer, where that is safe.

A copy has all the imports already: it starts in milliseconds where a fresh interpreter computes for seconds,
which is more than some trainings take. It must be a plain process, though, so a copy is made only of a
trainer that has one thread, no GPU and little memory, and everything of the trainer's is laid aside in it.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from esper.workers import processes

_MOST_BYTES = 2 << 30
"""A copy keeps what the trainer overwrites: with more memory than this, imports are the smaller price."""

_STATUS, _DESCRIPTORS = Path("/proc/self/status"), Path("/proc/self/fd")
_LOOK_SECONDS = 0.005


def can_copy() -> bool:
    """Whether a fork of this process, now and from this thread, can do all that a fresh one can."""
    if sys.platform != "linux" or threading.active_count() > 1:
        return False  # another thread may hold a lock that nobody would release in the copy
    held = _own_bytes()
    return held is not None and held <= _MOST_BYTES and _is_plain(sys.modules.get("torch"))


class Copy:
    """A copy of this process that serves and ends; to its parent what `subprocess.Popen` is of a program.

    Args:
        serve: what the copy does.
        keep: file descriptors that it needs; all others lead nowhere in it.
        standard_error: where its errors go.
    """

    def __init__(self, serve: Callable[[], None], keep: Collection[int], standard_error: int) -> None:
        self.returncode: int | None = None

        def work() -> None:
            os.setpgid(0, 0)  # an interrupt from the keyboard is for the trainer to handle
            _lay_aside({*keep}, standard_error)
            serve()

        with warnings.catch_warnings():
            # Newer Pythons warn of the idle threads of torch's kernels. A copy computes on its only thread.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = processes.fork(work)

    def poll(self) -> int | None:
        """How it ended; None while it lives."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # the program has buried it, by waiting for just any child
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """How it ended.

        Raises:
            TimeoutExpired: it lives on.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() >= end:
                raise subprocess.TimeoutExpired("workers", timeout or 0.0)
            time.sleep(_LOOK_SECONDS)
        return code

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _lay_aside(keep: set[int], standard_error: int) -> None:
    """Leaves the trainer's files, signals, loggers and settings of torch out of reach."""
    os.dup2(standard_error, 2)
    nowhere = os.open(os.devnull, os.O_RDWR)
    # Led nowhere instead of closed: an object that still holds a number must not write into a later file.
    for number in {0, 1, *(int(entry.name) for entry in _DESCRIPTORS.iterdir())} - keep - {2, nowhere}:
        os.dup2(nowhere, number, inheritable=number < 3)
    gone.extend((sys.stdin, sys.stdout, sys.stderr))
    sys.stdin, sys.stdout = (open(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w")))  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    _silence_loggers()
    gc.freeze()  # nothing of the trainer's is ever taken apart here: that might remove its files
    _settle_torch(sys.modules.get("torch"))


def _silence_loggers() -> None:
    """As in a fresh interpreter: only what is serious is written, to standard error."""
    known = logging.Logger.manager.loggerDict.values()
    for logger in (logging.root, *(entry for entry in known if isinstance(entry, logging.Logger))):
        gone.append(logger.handlers)
        logger.handlers = []


gone: list[Any] = []
"""Keeps what was laid aside: a stream or handler that is taken apart would flush and close."""


def _is_plain(torch: Any) -> bool:
    """Whether torch was not imported, or is in no state that a copy would carry into what it computes."""
    if torch is None:
        return True
    return not (
        torch.cuda.is_initialized()
        or torch.is_autocast_enabled("cpu")
        or torch.is_inference_mode_enabled()
        or torch._C._len_torch_function_stack()  # noqa: SLF001  (a default device is one, too)
        or torch._C._len_torch_dispatch_stack()  # noqa: SLF001
    )


def _settle_torch(torch: Any) -> None:
    """Computes as a fresh interpreter does: on one thread, in float32, with gradients."""
    if torch is None:
        return
    torch.set_num_threads(1)  # the others do not exist in a copy
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.autograd.set_detect_anomaly(False)


def _own_bytes() -> int | None:
    """Memory of this process that is not mapped from files; None if the system does not say."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return None
