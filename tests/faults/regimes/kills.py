"""kill -9: at random moments of a life, and in place of every single call that changes the disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from esper.checkpoint import PosixStorage
from tests.faults.dying import NEVER, number_of_calls, start, work
from tests.faults.lives import LIVES
from tests.faults.regimes.regime import Regime, spread

ROUNDS = 5
"""How often the process is killed at each call."""
_AT_RANDOM = ("store", "store", "store", "ring", "audit", "bundle", "import", "journal")
_BY_STORAGE = tuple(name for name, life in LIVES.items() if life.is_by_storage)


def at_random(folder: Path, first: int, goal: int) -> Iterator[str]:
    """One life after another is killed at a moment between its first call and a bit after its last."""
    seconds = {name: _seconds_of(name, folder) for name in LIVES if name in _AT_RANDOM}
    for number in range(first, goal):
        rng = random.Random(f"kill {number}")
        name = rng.choice(_AT_RANDOM)
        root, told = _fresh(folder / "kill")
        begun = folder / "kill" / "begun"
        os.mkfifo(begun)
        process = start(work, name, root, NEVER, told, begun)
        begun.read_bytes()  # returns when it begins
        process.join(rng.uniform(0.0, 1.1 * seconds[name]))
        yield _killed(name, process, root, told)


def at_every_call(folder: Path, first: int, goal: int) -> Iterator[str]:
    """SIGKILL in place of call 1, 2, 3, ... of each life that goes through the storage, round by round."""
    points = [(name, call) for name in _BY_STORAGE for call in range(1, number_of_calls(name, folder) + 1)]
    for name, call in spread(ROUNDS * points, goal)[first:]:
        root, told = _fresh(folder / "point")
        process = start(work, name, root, call, told)
        process.join()
        wrong = "" if process.exitcode == -signal.SIGKILL else f"{name} was not killed at call {call}"
        yield wrong or LIVES[name].problem(root, told.read_text())


def _seconds_of(name: str, folder: Path) -> float:
    """How long a life takes."""
    root, _ = _fresh(folder / "whole")
    begun = time.perf_counter()
    LIVES[name].act(root, PosixStorage(), lambda _: None)
    return time.perf_counter() - begun


def _fresh(folder: Path) -> tuple[Path, Path]:
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "root"
    root.mkdir(parents=True)
    return root, folder / "told"


def _killed(name: str, process: BaseProcess, root: Path, told: Path) -> str:
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        return f"{name} ended with {process.exitcode}"
    return LIVES[name].problem(root, told.read_text() if told.exists() else "")


KILLS = Regime(
    "kill-random", "kill -9 at a random moment of any of these ways to the disk", 10_000, at_random
)
POINTS = Regime("kill-points", "kill -9 in place of each call of the storage, 5 times", 2_000, at_every_call)
