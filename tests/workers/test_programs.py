"""Pools in whole programs: no main guard needed, nothing left behind however a program ends, odd systems."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers.processes import wait_for_death

PROGRAM = """
print("main runs")
from esper.workers import LocalPool, WorkerTask
pool = LocalPool(2, ())
handles = [pool.submit(WorkerTask("operator:mul", {})), pool.submit(WorkerTask("my_tasks:double", {"x": 21}))]
print([h.outcome().value for h in handles])
def mine(): pass
try:
    pool.submit(WorkerTask(mine))
except Exception as error:
    print(type(error).__name__)
"""


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that finds the library and these tests, and fails where it warns."""
    here = Path(__file__).parents[2]
    path = f"{here / 'src'}{os.pathsep}{here}"
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["train.py"],
        ["-c", "from pathlib import Path; exec(Path('train.py').read_text(), {'__name__': '__main__'})"],
    ],
    ids=["script", "cell of a notebook"],
)
def test_a_program_without_main_guard_runs_once_and_ends_cleanly(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "my_tasks.py").write_text("def double(x):\n    print('to nowhere')\n    return 2 * x\n")
    (tmp_path / "train.py").write_text(PROGRAM)
    ended = run(tmp_path, sys.executable, *arguments)
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["main runs", "[None, 42]", "ConfigError"]
    assert ended.returncode == 0


TRAINERS = """
import json, os, signal, sys
from pathlib import Path
from esper.workers import Ending, LocalPool, WorkerTask
from tests.workers import tasks
from tests.workers.processes import parent_of, wait_for_death

def work(pool):
    around = pool.submit(WorkerTask(tasks.surroundings)).outcome().value
    pipe = Path("pipe of " + name)
    os.mkfifo(pipe)
    spawn = WorkerTask(tasks.spawn, {"pipe": pipe, "how": "session", "then": "hang"}, retries=0)
    handle = pool.submit(spawn)
    pids = [int(pipe.read_text()), around["pid"], around["parent"], parent_of(around["parent"])]
    Path(name + ".json").write_text(json.dumps(pids))
    return handle, pids

def end(pool):
    work(pool)

def be_killed(pool):
    work(pool)
    os.kill(os.getpid(), signal.SIGKILL)

def fork(pool):
    work(pool)
    os.fork() or sys.exit()
    os.wait()

def do_nothing(pool):
    pass

def lose_the_process_that_forks(pool):
    handle, pids = work(pool)
    os.kill(pids[-1], signal.SIGKILL)
    outcome = handle.outcome()
    assert outcome.ending is Ending.LOST, outcome
    assert "exit code -9" in outcome.message, outcome
    assert pool.submit(WorkerTask(tasks.echo, {"value": 1})).outcome().value == 1

def be_killed_while_workers_import(pool):
    importing = int(Path("imports").read_text())
    Path(name + ".json").write_text(json.dumps([importing]))
    if os.fork() == 0:  # holds its end of every socket for as long as what imports lives
        wait_for_death(importing)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)

os.mkfifo("imports")
os.mkfifo("never")
Path("endless.py").write_text(
    "import os; from pathlib import Path\\n"
    "Path('imports').write_text(str(os.getpid()))\\nPath('never').read_text()"
)
sys.path.insert(0, os.getcwd())
may_copy = sys.argv[1] == "copy"
acts = [end, be_killed, fork, do_nothing, lose_the_process_that_forks]
trainers = {}
for act in acts if may_copy else [*acts, be_killed_while_workers_import]:
    name = act.__name__
    trainers[name] = os.fork()
    if trainers[name] == 0:
        preload = ("endless",) if act is be_killed_while_workers_import else tasks.PRELOAD
        act(LocalPool(1, preload, may_copy=may_copy))
        sys.exit()
codes = {name: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for name, pid in trainers.items()}
print(json.dumps(codes))
"""


@pytest.fixture(scope="module", params=["interpreter", "copy"])
def trainers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, int]]:
    """Trainers that have ended, each in its own way: where they told of their processes, and exit codes.

    They are forks of one process, which has imported what they need; each opens a pool of its own, whose
    workers are forked from a fresh interpreter or from a copy of the trainer.
    """
    folder = tmp_path_factory.mktemp("trainers")
    ended = run(folder, sys.executable, "-c", TRAINERS, request.param)
    assert (ended.stderr, ended.returncode) == ("", 0)
    return folder, json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("end", 0),
        ("be_killed", -signal.SIGKILL),
        ("fork", 0),
        ("lose_the_process_that_forks", 0),
        ("be_killed_while_workers_import", -signal.SIGKILL),
    ],
    ids=str,
)
def test_every_process_ends_with_the_trainer_however_it_ends(
    trainers: tuple[Path, dict[str, int]], how: str, code: int
) -> None:
    folder, codes = trainers
    if how not in codes:
        return  # a copy imports nothing
    assert codes[how] == code
    for pid in json.loads((folder / f"{how}.json").read_text()):
        wait_for_death(pid)


def test_a_program_that_opens_a_pool_and_does_not_use_it_ends_at_once(
    trainers: tuple[Path, dict[str, int]],
) -> None:
    assert trainers[1]["do_nothing"] == 0


TASKS = """
import sys
from pathlib import Path
from esper.workers import LocalPool, WorkerTask
from tests.workers import tasks
pool = LocalPool(2, tasks.PRELOAD)
handles = [
    pool.submit(WorkerTask(tasks.echo, {"value": 1}, memory_bytes=1 << 30)),
    pool.submit(WorkerTask(tasks.say_on_standard_error, {"text": "said"})),
    pool.submit(WorkerTask(tasks.crash, {"how": "exit"})),
    pool.submit(WorkerTask(tasks.hang, deadline_seconds=0.1)),
    pool.submit(WorkerTask("subprocess:Popen", {"args": ["sleep", "600"]})),
    pool.submit(WorkerTask(tasks.echo, {"value": 2})),
]
Path("endings").write_text(" ".join(handle.outcome().ending for handle in handles))
"""
ENDINGS = "done done lost timeout failed done"

READ_ONLY = "mount --bind /proc /proc && mount -o remount,bind,ro,nosuid,nodev,noexec /proc"
NAMESPACES = [
    pytest.param(["--mount"], READ_ONLY, "", id="read-only"),
    pytest.param(["--mount"], "mount -t tmpfs none /proc", "A memory cap of", id="absent"),
    pytest.param(["--pid", "--fork"], "true", "", id="of another namespace"),
]


@pytest.mark.parametrize(("kinds", "preparation", "told"), NAMESPACES)
def test_tasks_run_whatever_proc_is(tmp_path: Path, kinds: list[str], preparation: str, told: str) -> None:
    command = ["unshare", "--map-root-user", *kinds, "sh", "-c", f'{preparation} && exec "$@"', "sh"]
    if run(tmp_path, *command, "true").returncode != 0:
        pytest.skip("this system lets nobody make namespaces")
    ended = run(tmp_path, *command, sys.executable, "-c", TASKS)
    assert (tmp_path / "endings").read_text() == ENDINGS
    assert "said" in ended.stderr
    assert told in ended.stderr
    assert ended.returncode == 0


def test_tasks_run_where_the_standard_streams_are_closed(tmp_path: Path) -> None:
    ended = run(tmp_path, "sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", sys.executable, "-c", TASKS)
    assert (tmp_path / "endings").read_text() == ENDINGS
    assert ended.returncode == 0
