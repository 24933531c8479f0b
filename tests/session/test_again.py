"""A finished run whose script is started again, and what a run says that nobody gave a target."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from esper.report import RunReport
from tests.session.runs import EPOCHS, Training


def seconds(report: RunReport) -> tuple[float, float]:
    """That were waited for Esper, and those of the whole training."""
    cost = report.overhead
    assert cost is not None
    return cost.esper_seconds or 0.0, cost.training_seconds or 0.0


def test_a_finished_run_that_is_finished_again_keeps_what_was_measured(tmp_path: Path) -> None:
    first = Training(tmp_path / "run")
    for _ in range(EPOCHS):
        first.epoch()
    result = first.session.finish(latency=False)
    report = result.report
    assert report.quality_after is not None
    assert report.proof is not None
    written = (tmp_path / "run/report.json").read_bytes()

    again = Training(tmp_path / "run").session.finish(latency=False)
    assert (again.report, str(again), again.why) == (report, str(result), result.why)
    assert (tmp_path / "run/report.json").read_bytes() == written

    # Killed before it was written: what a checkpoint or a fresh proof tells is known all the same.
    (tmp_path / "run/report.json").unlink()
    lost = Training(tmp_path / "run").session.finish(latency=False).report
    assert (lost.quality_after, lost.quality_source) == (report.quality_after, report.quality_source)
    assert lost.proof is not None
    (waited, ran), (waited_then, ran_then) = seconds(report), seconds(lost)
    assert waited_then == waited > 0  # no epoch has ended since
    assert ran_then > ran

    further = Training(tmp_path / "run")
    further.epoch()
    trained = further.session.finish(latency=False).report
    assert len(trained.epochs) == EPOCHS + 1
    assert trained.quality_source == f"measured in epoch {EPOCHS + 1}"
    assert all(np.greater(seconds(trained), seconds(lost)))


def test_a_finished_run_that_goes_on_is_analyzed_as_its_last_cut_left_it(tmp_path: Path) -> None:
    first = Training(tmp_path / "run")
    first.until_masked()
    ended = first.session.epoch
    first.session.finish(latency=False)
    assert first.marks()[-1] == "cut"  # after the end of the last epoch

    further = Training(tmp_path / "run", pruning={"target": {"flops": 0.7}})
    further.epoch()
    assert further.session.log.progress.decisions[-1].epoch == ended
    assert further.marks()[-1] == "mask"
    further.session.detach()


def test_a_run_without_a_target_says_so_at_its_beginning_and_at_its_end(tmp_path: Path) -> None:
    pruning = {"target": None, "schedule": {"start_epoch": None, "end_epoch": None}}
    run = Training(tmp_path / "run", pruning=pruning)
    (note,) = (note for note in run.session.log.notes if "no target was given" in note)
    assert "attach(target=0.5)" in note
    run.epoch()
    result = run.session.finish(latency=False)
    assert result.why == note
    assert note in str(result)
