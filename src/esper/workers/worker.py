"""The life of a worker process: it is told a task, makes the call, and tells how it ended."""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from esper.workers import processes
from esper.workers.call import call
from esper.workers.channel import Channel, wait_for

_OOM_SCORE = "900"
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
            for message in channel.receive():
                _work(channel, message, hard)
        except EOFError:
            return


def _work(channel: Channel, message: dict[str, Any], hard: int) -> None:
    worker = os.getpid()
    _cap_memory(message["memory_bytes"], hard)
    ending, value, text = call(message["function"], message["arguments"])
    _cap_memory(None, hard)
    if os.getpid() != worker:
        os._exit(1)  # a copy that the task has forked and let run on: the channel is not its own
    told = {"ending": ending, "value": value, "message": text}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES - inherited_bytes()
    channel.send({**told, "peak_bytes": max(peak, 0), "has_children": processes.has_children()})
    channel.finish()


def _settle(supervisor: int) -> None:
    """First to go when memory runs out, no core dumps, and never an orphan; low priority is inherited."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):  # /proc is absent or read-only, or the score is higher already
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    processes.adopt_orphans()
    processes.end_with(supervisor, signal.SIGKILL)
    _inherited.append(_status_bytes("VmRSS:") or 0)


_inherited: list[int] = []


def inherited_bytes() -> int:
    """Memory that this process shared with its parent when it began to work; none if it is no worker."""
    return _inherited[0] if _inherited else 0


def _cap_memory(memory_bytes: int | None, hard: int) -> None:
    """Caps private writable memory at what is held now and `memory_bytes` more.

    RLIMIT_DATA, because RLIMIT_AS would count the maps, and a GPU driver reserves more address space than
    any limit.
    """
    soft = hard
    if memory_bytes is not None and sys.platform == "linux":
        held = _status_bytes("VmData:")  # private and writable
        if held is None:
            sys.stderr.write(f"A memory cap of {memory_bytes} bytes is not held: /proc cannot be read.\n")
        elif hard == resource.RLIM_INFINITY:
            soft = held + memory_bytes
        else:
            soft = min(held + memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _status_bytes(name: str) -> int | None:
    """Memory of this process as the system calls it; None if the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None
