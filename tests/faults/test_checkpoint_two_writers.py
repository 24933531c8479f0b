"""Two processes on one run directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from esper.checkpoint import CheckpointCatalog
from esper.errors import CheckpointError
from tests.checkpoint.runs import RING, debris, holds, open_store
from tests.faults.forking import run

ROOT = Path(__file__).parents[2]


def test_the_second_writer_is_refused_sweeps_nothing_and_readers_see_whole_checkpoints(
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.writer_process", str(run_dir)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{ROOT}/src", "OMP_NUM_THREADS": "1"},
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        catalog = CheckpointCatalog(run_dir, RING)
        acknowledged = "0"
        for _ in range(30):
            acknowledged = writer.stdout.readline()
            with pytest.raises(CheckpointError, match=rf"being written by process {writer.pid}"):
                open_store(run_dir)
            found = catalog.latest()
            assert found is not None
            assert found.step >= int(acknowledged)
        writer.stdin.write("stop\n")
        writer.stdin.flush()
        last = int((writer.stdout.read().split() or [acknowledged])[-1])  # the last line may be read already
    assert writer.returncode == 0
    with open_store(run_dir) as store:
        assert store.swept == ()
        assert debris(run_dir) == []
        newest = store.latest()
        assert newest is not None
        assert holds(newest, last)


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    assert run(tmp_path / "run", tmp_path / "told") == 0
    told = (tmp_path / "told").read_text().splitlines()
    assert [line.partition(":")[0] for line in told] == ["save", "attach", "withdraw", "submit"]
    assert all("forked from" in line for line in told)
    with open_store(tmp_path / "run") as store:
        assert [ref.step for ref in store.list().checkpoints] == [1, 3]
