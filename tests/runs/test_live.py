"""The live view says how far a run is, how good, what is gone, what goes on and what it costs."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from esper.nissa import events, progress
from esper.runs import RunWatch, live_line, live_panel
from tests.web.served import FakeRun, epoch, training


def drawn(path: Path, width: int = 100) -> str:
    page = io.StringIO()
    Console(file=page, width=width).print(live_panel(RunWatch("[bold]first", path).look(), 5))
    return page.getvalue()


def test_a_run_in_training_shows_everything_that_it_tells(tmp_path: Path) -> None:
    training(tmp_path)
    text = drawn(tmp_path)
    for words in (
        "Esper: [bold]first",
        "Training epoch 3 of 9",
        "analyzing the checkpoint of epoch 2",
        "60.00 %",
        "FLOPs −50 %",
        "0.1 s waited for Esper, 1.00 % of the time",
        "A mask waits for an epoch",
    ):
        assert words in text
    assert max(len(line) for line in drawn(tmp_path, 40).splitlines()) <= 40
    line = live_line(RunWatch("first", tmp_path).look())
    assert "\n" not in line
    assert "accuracy: 60.00 %" in line


def test_what_was_not_measured_is_said_and_a_start_is_no_share(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    assert "waited for Esper" not in drawn(tmp_path)
    run.tell(epoch(1))
    cost = epoch(2)
    object.__setattr__(cost, "esper_seconds", 5.0)
    run.tell(cost, events.MaskWaits("accuracy"))
    assert "50.00 % of the time, what is done once at the start included" in drawn(tmp_path, 140)


def test_a_finished_run_does_not_say_that_something_is_still_masked(tmp_path: Path) -> None:
    run = FakeRun(tmp_path)
    last = epoch(1)
    object.__setattr__(last, "masked_units", 3)
    run.tell(last)
    assert "3 units masked and not cut yet" in drawn(tmp_path, 140)
    run.tell(progress.Finished(1))
    assert "not cut yet" not in drawn(tmp_path, 140)


def test_a_directory_with_nothing_is_no_error(tmp_path: Path) -> None:
    assert "Nothing was written yet." in drawn(tmp_path)
