"""System calls of SQLite that fail: strace lets the N-th one of a real process fail."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.faults.dying import FORESEEN, start, work_traced
from tests.faults.lives import LIVES
from tests.faults.regimes.regime import Regime, spread
from tests.faults.traced import follow_to_the_end

_FAULTS = (("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("fdatasync", "EIO"), ("fsync", "EIO"))
_LIVES = tuple(name for name, life in LIVES.items() if not life.is_by_storage)


def _cases(folder: Path, first: int, goal: int) -> Iterator[str]:
    """The audit and the bus with call 1, 2, 3, ... of each kind failing."""
    points = []
    for name in _LIVES:
        counts = Counter(line.split("(")[0].split()[-1] for line in _traced(name, folder)[0])
        points += [(name, call, error, k) for call, error in _FAULTS for k in range(1, counts[call] + 1)]
    for name, call, error, number in spread(points, goal)[first:]:
        lines, code, told = _traced(name, folder, "-e", f"inject={call}:error={error}:when={number}")
        if not any("(INJECTED)" in line for line in lines):
            yield f"{name}: {call} {number} did not fail"
        elif code not in (0, FORESEEN):
            yield f"{name}: {error} of {call} {number} ended the process with {code}"
        else:
            yield LIVES[name].problem(folder / "root", told)


def _traced(name: str, folder: Path, *options: str) -> tuple[list[str], int | None, str]:
    """Lines of the trace, exit code, and what was acknowledged."""
    root, told, log = folder / "root", folder / "told", folder / "trace"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    told.write_bytes(b"")
    process = start(work_traced, name, root, told)
    follow_to_the_end(process, log, "pwrite64,fsync,fdatasync", *options)
    return log.read_text().splitlines(), process.exitcode, told.read_text()


INJECTED = Regime(
    "calls-sqlite", "EIO, ENOSPC at the N-th write or sync of SQLite", 250, _cases, is_traced=True
)
