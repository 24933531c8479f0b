"""Pools in whole programs: no main guard needed, nothing left behind however the program ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.elesh.test_workers_faults import wait_for_death

PROGRAM = """
print("main runs")
from esper.elesh.workers import LocalPool, WorkerTask
pool = LocalPool(2)
handles = [pool.submit(WorkerTask("operator:mul", {})), pool.submit(WorkerTask("my_tasks:double", {"x": 21}))]
print([h.outcome().value for h in handles])
def mine(): pass
try:
    pool.submit(WorkerTask(mine))
except Exception as error:
    print(type(error).__name__)
"""


def environment() -> dict[str, str]:
    here = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{here / 'src'}{os.pathsep}{here}", "PYTHONWARNINGS": "error"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_tasks.py").write_text("def double(x):\n    print('to nowhere')\n    return 2 * x\n")
    return tmp_path


@pytest.mark.parametrize("how", ["script", "stdin", "cell"])
def test_a_program_without_main_guard_runs_once_and_ends_cleanly(folder: Path, how: str) -> None:
    (folder / "train.py").write_text(PROGRAM)
    arguments, text = {
        "script": (["train.py"], ""),
        "stdin": (["-"], PROGRAM),
        "cell": (
            ["-c", "from pathlib import Path; exec(Path('train.py').read_text(), {'__name__': '__main__'})"],
            "",
        ),  # as a notebook cell
    }[how]
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        input=text,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["main runs", "[None, 42]", "ConfigError"]
    assert ended.returncode == 0


HANGING = """
import json, os, sys
from pathlib import Path
from esper.elesh.workers import LocalPool, WorkerTask
pool = LocalPool(1)
around = pool.submit(WorkerTask("tests.elesh.worker_tasks:surroundings")).outcome().value
pool.submit(WorkerTask("tests.elesh.worker_tasks:say_and_hang", {"pipe": Path("pipe")}))
Path("pipe").read_text()
print(json.dumps([around["pid"], around["parent"]]), flush=True)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("", 0),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL),
        ("os.fork() or sys.exit(); os.wait()", 0),
    ],
)
def test_workers_end_with_the_trainer_however_it_ends(folder: Path, end: str, code: int) -> None:
    os.mkfifo(folder / "pipe")
    ended = subprocess.run(
        [sys.executable, "-c", HANGING + end],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    worker, supervisor = json.loads(ended.stdout.splitlines()[0])
    wait_for_death(worker)
    wait_for_death(supervisor)
    assert ended.stderr == ""


def test_a_program_that_opens_a_pool_and_does_not_use_it_ends_at_once(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from esper.elesh.workers import LocalPool; LocalPool(1); print('end')"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("end\n", "", 0)
