"""The thread beside training: its operators start no threads, and nobody else's number changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WITH_TEAMS = """
import os, sys, torch
from esper.emrakul.cycle.runner import thread_beside_training
from concurrent.futures import ThreadPoolExecutor

def work():
    return float((torch.ones(4_000_000) * 2).sum())

torch.set_num_threads(4)
work()
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
beside = thread_beside_training("beside")
assert beside.submit(work).result() == 8e6
print(count() - before)
before = count()
other = ThreadPoolExecutor(1)
other.submit(work).result()
print(count() - before)
asked = torch.get_num_threads
print(asked(), other.submit(asked).result(), beside.submit(asked).result())
"""


def test_its_operators_start_no_team_and_everybody_else_keeps_their_number_of_threads() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "4", "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run(
        [sys.executable, "-c", WITH_TEAMS],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
        cwd=Path(__file__).parent,
    )
    started = [int(number) for number in told.stdout.split()]
    assert started[:2] == [1, 4]
    assert started[2:] == [4, 4, 1]
