"""Pools in whole programs: no main guard needed, nothing left behind however the program ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.test_workers_faults import wait_for_death

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


@pytest.mark.parametrize(
    "arguments",
    [
        ["train.py"],
        ["-c", "from pathlib import Path; exec(Path('train.py').read_text(), {'__name__': '__main__'})"],
    ],
    ids=["script", "cell of a notebook"],
)
def test_a_program_without_main_guard_runs_once_and_ends_cleanly(folder: Path, arguments: list[str]) -> None:
    (folder / "train.py").write_text(PROGRAM)
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["main runs", "[None, 42]", "ConfigError"]
    assert ended.returncode == 0


TRAINERS = """
import json, os, sys
from pathlib import Path
from esper.elesh.workers import LocalPool, WorkerTask

def work(pipe):
    around = pool.submit(WorkerTask("tests.workers.worker_tasks:surroundings")).outcome().value
    pool.submit(WorkerTask("tests.workers.worker_tasks:say_and_hang", {"pipe": Path(pipe)}))
    Path(pipe).read_text()
    Path(pipe + ".json").write_text(json.dumps([around["pid"], around["parent"]]))

def fork():
    os.fork() or sys.exit()
    os.wait()

ends = {
    "ends": lambda: None,
    "is killed": lambda: os.kill(os.getpid(), 9),
    "has forked": fork,
    "has not worked": None,
}
codes = {}
for name, end in ends.items():
    os.mkfifo(name)
    trainer = os.fork()
    if trainer == 0:
        pool = LocalPool(1)
        if end is not None:
            work(name)
            end()
        sys.exit()
    codes[name] = os.waitstatus_to_exitcode(os.waitpid(trainer, 0)[1])
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Trainers that have ended, each in its own way: where they told of their workers, and their exit codes.

    They are forks of one process, which has imported what they need; each opens a pool of its own.
    """
    folder = tmp_path_factory.mktemp("trainers")
    ended = subprocess.run(
        [sys.executable, "-c", TRAINERS],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    return folder, json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("how", "code"), [("ends", 0), ("is killed", -signal.SIGKILL), ("has forked", 0)], ids=str
)
def test_workers_end_with_the_trainer_however_it_ends(
    trainers: tuple[Path, dict[str, int]], how: str, code: int
) -> None:
    folder, codes = trainers
    assert codes[how] == code
    worker, supervisor = json.loads((folder / f"{how}.json").read_text())
    wait_for_death(worker)
    wait_for_death(supervisor)


def test_a_program_that_opens_a_pool_and_does_not_use_it_ends_at_once(
    trainers: tuple[Path, dict[str, int]],
) -> None:
    assert trainers[1]["has not worked"] == 0
