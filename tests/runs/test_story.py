"""The story of a run is read from its files while they are written, damaged, replaced or gone."""

from __future__ import annotations

import os
from pathlib import Path

from esper.nissa import acts, events, kernel_events, progress
from esper.report import write_report
from esper.runs import RunState, RunWatch, doing, live_line, runs_in
from tests.report.example import full_report
from tests.web.served import FakeRun, epoch, training


def test_only_what_is_new_is_read_and_half_a_line_waits(tmp_path: Path) -> None:
    run = training(tmp_path / "run")
    watch = RunWatch("run", tmp_path / "run")
    first = watch.look()
    assert first.state is RunState.RUNNING
    assert watch.look() is first
    with (tmp_path / "run" / "telemetry.jsonl").open("ab") as file:
        file.write(b'{"at_seconds": 1.0, "kind"')
    assert watch.look() is first
    run.tell(epoch(3))
    again = watch.look()
    assert again.version == first.version + 1
    assert again.told.unreadable == 1  # the rest of that line was written by somebody else


def test_training_that_goes_back_shows_the_way_that_it_is_on(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    run.tell(epoch(1), epoch(2, 0.9), epoch(3, 0.1), events.RolledBack(3, "Worse.", 16), epoch(3, 0.8))
    report = RunWatch("run", tmp_path).look().report
    assert report is not None
    assert report.values == {1: 0.5, 2: 0.9, 3: 0.8}
    assert [mark.kind for mark in report.marks] == ["rollback"]


def test_what_a_compiler_made_while_seeds_grew_is_added_up(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    run.tell(epoch(1))
    assert RunWatch("run", tmp_path).look().told.programs is None
    run.tell(kernel_events.ProgramsCounted(2, 0), *(kernel_events.ProgramsMade(n, 2) for n in (3, 4)))
    report = RunWatch("run", tmp_path).look().report
    assert report is not None
    assert report.programs == 4


def test_a_mask_is_on_trial_until_it_is_cut_or_taken_back(tmp_path: Path) -> None:
    run = training(tmp_path)
    watch = RunWatch("run", tmp_path)
    assert watch.look().told.trial == 2
    run.tell(events.Cut(3, 3, 0.2, 1e-7))
    assert watch.look().told.trial is None
    run.tell(acts.Masked(4, 1, 1, False, 0.0, 0.1, "flops", ""), events.RolledBack(5, "Worse.", None))
    assert watch.look().told.trial is None


def test_what_a_mask_has_made_of_the_network_holds_until_the_next_epoch_tells(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    watch = RunWatch("run", tmp_path)
    run.tell(epoch(1), acts.Masked(1, 2, 2, False, 0.0, 0.6, "flops", "", 4e5, 700))

    def now() -> tuple[float, int, int]:
        story = watch.look()
        assert story.report is not None
        return story.report.flops_after, story.report.parameters_after, story.told.masked_units

    assert now() == (4e5, 700, 2)
    assert "FLOPs −60 %, parameters −30 %, 2 units masked" in live_line(watch.look())
    run.tell(events.Cut(1, 2, 0.3, 1e-7))
    assert now() == (4e5, 700, 0)
    run.tell(epoch(2))
    assert now() == (5e5, 1000, 0)


def test_a_run_that_has_stopped_says_what_is_saved_and_one_at_its_end_that_it_finishes(
    tmp_path: Path,
) -> None:
    run = FakeRun(tmp_path, pid=2**22 + 1)
    watch = RunWatch("run", tmp_path)
    assert doing(watch.look()) == (
        "Not running. It has not ended any epoch, and no checkpoint is there to resume from."
    )
    for step in (0, 8, 16):
        (tmp_path / "checkpoints" / f"step-{step:09d}").mkdir()
        (tmp_path / "checkpoints" / f".tmp-step-{step + 8:09d}-1-aa").mkdir()
    run.tell(epoch(1), epoch(2))
    assert doing(watch.look()) == "Not running. It came as far as epoch 2 of 9, and resumes from there."
    run.tell(epoch(3))
    lost = "Not running. It came as far as epoch 3 of 9. It is saved up to epoch 2, and resumes from there."
    assert doing(watch.look()) == lost
    (tmp_path / "checkpoints" / "step-000000016").rmdir()  # nothing tells of it
    assert doing(watch.look()) == lost.replace("epoch 2,", "epoch 1,")
    (tmp_path / "checkpoints" / "step-000000020").mkdir()
    assert doing(watch.look()) == lost.replace("epoch 2,", "step 20,")
    note = tmp_path / "checkpoints" / ".writer.json"
    note.write_text(note.read_text().replace(str(2**22 + 1), str(os.getpid())))
    run.tell(*map(epoch, range(4, 10)))
    assert doing(watch.look()) == "All 9 epochs are trained; finishing."


def test_a_finished_run_is_its_report_and_a_writer_that_has_died_has_stopped(tmp_path: Path) -> None:
    run = FakeRun(tmp_path, pid=2**22 + 1)
    run.tell(epoch(1))
    watch = RunWatch("run", tmp_path)
    assert watch.look().state is RunState.STOPPED
    write_report(full_report(), tmp_path)
    run.tell(progress.Finished(1))
    story = watch.look()
    assert story.state is RunState.FINISHED
    assert story.report == full_report()


def test_runs_are_found_in_folders_and_what_is_not_readable_is_passed_over(tmp_path: Path) -> None:
    for name in ("one", "deep/er/two", "much/too/deep/three"):
        FakeRun(tmp_path / name)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert {"one", "deep/er/two"} <= runs_in(tmp_path).keys()
    assert "much/too/deep/three" not in runs_in(tmp_path)
    assert runs_in(tmp_path / "one") == {"one": tmp_path / "one"}
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["run.json"]
