"""Workers that begin as copies of the trainer: when they may, and what is out of their reach."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.workers.test_programs import run

TRAINER = """
import logging, os, signal, sys, tempfile, threading
from pathlib import Path
import torch
from esper.workers import LocalPool, WorkerTask
from tests.workers.processes import parent_of
from tests.workers import copied_tasks

def is_copy(pool):
    supervisor = parent_of(pool.submit(WorkerTask(os.getpid)).outcome().value)
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (parent_of(supervisor), "self")]
    return commands[0] == commands[1]

torch.set_num_threads(2)
net = torch.nn.Conv2d(3, 64, 3)
net(torch.ones(8, 3, 64, 64)).sum().backward()  # torch's own threads run from here on
"""


def trained(folder: Path, program: str) -> list[str]:
    """What a program prints that trains beside workers; it ends well."""
    ended = run(folder, sys.executable, "-c", TRAINER + program)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_a_copy_computes_on_one_thread_in_the_settings_of_a_fresh_interpreter(tmp_path: Path) -> None:
    program = """
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
pool = LocalPool(1, ("torch",), may_copy=True)
print(is_copy(pool), pool.submit(WorkerTask(copied_tasks.trained)).outcome().value)
"""
    assert trained(tmp_path, program) == ["True [1, 'torch.float32', True]"]


def test_files_loggers_and_signals_of_the_trainer_are_out_of_its_reach(tmp_path: Path) -> None:
    program = """
log = open("log.txt", "w")
log.write("buffered ")  # a copy that flushed it would write it twice
logging.basicConfig(stream=log, level=logging.INFO)
signal.signal(signal.SIGTERM, lambda *_: log.write("told to end"))
folder = tempfile.TemporaryDirectory(dir=".")
reading, writing = os.pipe()
pool = LocalPool(1, ("torch",), may_copy=True)
task = WorkerTask(copied_tasks.reach, {"written": log.fileno(), "piped": writing})
print(is_copy(pool), pool.submit(task).outcome().value)
os.close(writing)
print(os.read(reading, 100))  # b"" as soon as nobody holds the other end
pool.close()
print(Path(folder.name).is_dir())
log.write("end")
log.close()
print(Path("log.txt").read_text())
"""
    assert trained(tmp_path, program) == ["True done", "b''", "True", "buffered end"]


@pytest.mark.parametrize(
    "obstacle",
    [
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "torch.set_default_device('cpu')",
        "torch.autocast('cpu').__enter__()",
        "mode = torch.inference_mode(); mode.__enter__()",
    ],
)
def test_a_trainer_that_is_not_plain_is_not_copied(tmp_path: Path, obstacle: str) -> None:
    program = f"{obstacle}\nprint(is_copy(LocalPool(1, ('operator',), may_copy=True)))"
    assert trained(tmp_path, program) == ["False"]


def test_what_follows_a_copy_that_was_killed_is_a_fresh_interpreter(tmp_path: Path) -> None:
    program = """
pool = LocalPool(1, ("operator",), may_copy=True)
worker = pool.submit(WorkerTask(os.getpid)).outcome().value
os.kill(parent_of(parent_of(worker)), signal.SIGKILL)
while pool._line.channel.is_open:
    pool.submit(WorkerTask(os.getpid)).outcome()
print(is_copy(pool))
"""
    assert trained(tmp_path, program) == ["False"]
