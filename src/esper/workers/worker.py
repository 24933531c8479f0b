"""The life of a worker process: it is told a task, makes the call, and tells how it ended."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from esper.workers.call import call
from esper.workers.channel import Channel, wait_for

_OOM_SCORE = "900"
_PR_SET_PDEATHSIG = 1
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def serve(channel: Channel, supervisor: int) -> None:
    """Runs tasks until the supervisor hangs up.

    Args:
        channel: To the supervisor.
        supervisor: Its process id; when that process dies, so does this one.
    """
    _settle(supervisor)
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    while True:
        wait_for([channel], None)
        try:
            messages = channel.receive()
        except EOFError:
            return
        for message in messages:
            _work(channel, message, hard)


def _work(channel: Channel, message: dict[str, Any], hard: int) -> None:
    def progress(fraction: float) -> None:
        channel.send({"progress": float(fraction)})
        channel.finish()

    _cap_memory(message["memory_bytes"], hard)
    status, value, text = call(message["function"], message["arguments"], progress)
    _cap_memory(None, hard)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES
    channel.send({"status": status, "value": value, "message": text, "peak_bytes": peak})
    channel.finish()
    sys.stdout.flush()
    sys.stderr.flush()


def _settle(supervisor: int) -> None:
    """First to go when memory runs out, no core dumps, and never an orphan; low priority is inherited."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it died before the line above
            os.kill(os.getpid(), signal.SIGKILL)


def _cap_memory(memory_bytes: int | None, hard: int) -> None:
    """Caps private writable memory at what is held now and `memory_bytes` more.

    RLIMIT_DATA, because RLIMIT_AS would count the maps, and a GPU driver reserves more address space than
    any limit.
    """
    soft = hard
    if memory_bytes is not None and sys.platform == "linux":
        soft = _data_bytes() + memory_bytes
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
