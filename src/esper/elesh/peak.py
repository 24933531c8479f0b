"""How much memory one piece of work needed at most, in a process that has done other work before."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

from esper.workers import inherited_bytes

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_NOTE = "VmHWM:"


class PeakMemory:
    """Counts the process's resident memory anew; `read` tells the highest since then, in bytes.

    What a worker shares with the process that it was forked from is not counted.

    Where the system cannot begin anew, it is the highest of the whole process: more, never less.
    """

    def __init__(self) -> None:
        with suppress(OSError):
            _RESET.write_text("5")  # proc(5): resets the high water mark

    def read(self) -> int:
        with suppress(OSError):
            lines = [line for line in _STATUS.read_text().splitlines() if line.startswith(_NOTE)]
            if lines:
                return max(int(lines[0].split()[1]) * 1024 - inherited_bytes(), 0)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
