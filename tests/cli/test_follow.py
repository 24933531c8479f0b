"""`esper follow` on runs that are written, finished, empty, torn and from elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from esper.nissa import progress
from tests.cli.test_main import ROOT, esper
from tests.web.served import FakeRun, epoch, training


def started(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "esper", "follow", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, bufsize=1
    )


def test_lines_are_passed_on_as_they_come_and_it_ends_with_the_run(tmp_path: Path) -> None:
    run = training(tmp_path)
    process = started(str(tmp_path), "--json")
    assert process.stdout is not None
    first = [json.loads(process.stdout.readline())["kind"] for _ in range(7)]
    assert first[:3] == ["epoch_ended", "epoch_ended", "decided"]
    run.tell(epoch(3), progress.Finished(3))
    rest, problems = process.communicate(timeout=60)
    assert [json.loads(line)["kind"] for line in rest.splitlines()] == ["epoch_ended", "finished"]
    assert (process.returncode, problems) == (0, "")


def test_interrupted_it_ends_without_a_traceback(tmp_path: Path) -> None:
    training(tmp_path)
    process = started(str(tmp_path))
    assert process.stdout is not None
    assert "Training epoch 3 of 9" in process.stdout.readline()
    os.kill(process.pid, signal.SIGINT)
    _, problems = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in problems


def test_finished_stopped_and_torn_runs_are_shown_once(tmp_path: Path) -> None:
    finished = FakeRun(tmp_path / "finished")
    finished.tell(epoch(1), progress.Finished(1))
    assert "Finished after 1 epoch" in esper("follow", str(tmp_path / "finished")).stdout
    FakeRun(tmp_path / "torn").tell(epoch(1))
    with (tmp_path / "torn" / "telemetry.jsonl").open("ab") as file:
        file.write(b'{"kind": "epoch_en')
    done = esper("follow", str(tmp_path / "torn"))
    assert "It came as far as epoch 1 of 9" in done.stdout
    lines = esper("follow", str(tmp_path / "torn"), "--json").stdout.splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]


def test_what_is_no_run_or_cannot_be_read_is_refused_by_its_reason(tmp_path: Path) -> None:
    done = esper("follow", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "There is no run directory at" in done.stderr.replace("\n", " ")
    (tmp_path / "empty").mkdir()
    done = esper("follow", str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "is no run directory" in done.stderr.replace("\n", " ")
    (tmp_path / "odd" / "telemetry.jsonl").mkdir(parents=True)
    done = esper("follow", str(tmp_path / "odd"))
    assert done.returncode == 2
    assert "cannot be read" in done.stderr.replace("\n", " ")
