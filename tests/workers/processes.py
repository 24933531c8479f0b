"""The processes of pools, seen from outside."""

from __future__ import annotations

import os
import select
from pathlib import Path


def wait_for_death(pid: int) -> None:
    """Returns when the process has ended; fails after a minute."""
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([ended], [], [], 60.0)[0], f"process {pid} is still alive"
    finally:
        os.close(ended)


def children_of(pid: int) -> list[int]:
    """Processes that a process has started, or taken over as orphans; a dead one has none."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def supervisors() -> list[int]:
    """The supervisors of all pools of this process: children of those that have done the imports."""
    return [child for pid in children_of(os.getpid()) if _is_zygote(pid) for child in children_of(pid)]


def workers() -> list[int]:
    """The worker processes of all pools of this process."""
    return [worker for supervisor in supervisors() for worker in children_of(supervisor)]


def _is_zygote(pid: int) -> bool:
    try:
        return b"esper.workers.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
