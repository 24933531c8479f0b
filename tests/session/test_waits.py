"""Training never waits for more than a moment without a word about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from esper.nissa import ListSink, kind_of, progress
from tests.session.runs import Training
from tests.session.test_cycles import be_patient, hold, let_go

WAITS = {"analysis_awaited", "cut_began", "finish_began"}


def told(run: Training) -> ListSink:
    """What people hear from now on."""
    sink = ListSink()
    run.session.log.telling.sinks.append(sink)
    return sink


def waits(sink: ListSink) -> list[str]:
    return [kind for event in sink.events if (kind := kind_of(type(event))) in WAITS]


def masked(path: Path) -> Training:
    run = Training(path)
    masks = run.session.parts.network.masks
    keep = np.ones(masks.keep.size, np.bool_)
    keep[:2] = False
    masks.apply(keep)
    return run


def test_a_long_cut_and_a_long_end_are_announced(tmp_path: Path) -> None:
    run = masked(tmp_path / "run")
    run.session.parts.network.look_seconds = 3.0
    sink = told(run)
    run.session.finish(latency=False)
    assert waits(sink) == ["finish_began", "cut_began"]
    assert any("2 masked units" in event.text and "6 s" in event.text for event in sink.events)


def test_a_short_cut_and_a_short_end_are_not(tmp_path: Path) -> None:
    run = masked(tmp_path / "run")
    run.session.parts.network.look_seconds = 0.01
    sink = told(run)
    run.session.finish(latency=False)
    assert waits(sink) == []


def test_a_late_analysis_is_said_to_be_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LONG_SECONDS", 0.0)
    run = Training(tmp_path / "run")
    strategy = hold(run)
    run.until(lambda: run.session.parts.runner.is_running)
    be_patient(run, 0.01)
    sink = told(run)
    run.epoch()
    assert waits(sink) == ["analysis_awaited"]
    let_go(run, strategy)
    run.session.detach()
