"""A finished run that somebody goes back in is not finished any more, for whoever looks at it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from esper.errors import CheckpointError
from esper.nissa import acts, progress
from esper.report import write_report
from esper.runs import RunState, RunWatch, doing, live_line
from esper.runs.reopened import Reopened
from tests.report.example import full_report
from tests.web.served import FakeRun, epoch

BACK = acts.Withdrawn(17, 2, 0, 0, ("step-000000017", "step-000000016"))


def finished(run: Path) -> FakeRun:
    fake = FakeRun(run)
    fake.tell(epoch(1), epoch(2))
    (run / "checkpoints" / "step-000000000").mkdir(parents=True)
    write_report(full_report(), run)
    fake.tell(progress.Finished(2))
    return fake


def test_its_report_is_set_aside_and_its_story_says_where_it_goes_on(tmp_path: Path) -> None:
    finished(tmp_path)
    watch = RunWatch("run", tmp_path)
    assert watch.look().state is RunState.FINISHED
    reopened = Reopened(tmp_path, lambda: 1_795_000_100.0)
    reopened.tell(BACK)
    story = watch.look()
    assert story.state is RunState.STOPPED
    assert doing(story) == "Not running. Somebody went back to step 0 by hand; it resumes from there."
    assert "FLOPs no change" in live_line(story)
    assert story.report is not None
    assert [(mark.epoch, mark.kind) for mark in story.report.marks] == [(0, "rollback")]
    assert story.report.notes == ()
    assert [path.name for path in reopened.aside] == [
        f"report-until-step-000000017.{ending}" for ending in ("json", "svg", "html")
    ]
    assert all(path.is_file() for path in reopened.aside)
    assert not (tmp_path / "report.json").exists()


def test_a_run_that_tells_no_telemetry_is_not_given_any(tmp_path: Path) -> None:
    FakeRun(tmp_path)
    write_report(full_report(), tmp_path)
    watch = RunWatch("run", tmp_path)
    assert watch.look().state is RunState.FINISHED
    Reopened(tmp_path).tell(BACK)
    assert watch.look().state is RunState.STOPPED
    assert not (tmp_path / "telemetry.jsonl").exists()


def test_a_report_of_before_is_not_what_a_run_without_telemetry_is_while_somebody_trains_it(
    tmp_path: Path,
) -> None:
    FakeRun(tmp_path, pid=os.getpid())
    write_report(full_report(), tmp_path)
    assert RunWatch("run", tmp_path).look().state is RunState.RUNNING


def test_what_cannot_be_told_is_an_error_that_says_so(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "telemetry.jsonl").unlink()
    (tmp_path / "telemetry.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"No checkpoint was deleted"):
        Reopened(tmp_path).tell(BACK)
