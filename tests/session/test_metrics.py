"""What is reported decides, also where nobody said by which metric; where nothing can, the probe does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from esper.nissa import Event, ListSink, assumed
from tests.session.runs import EPOCHS, Training

UNPRUNED: Mapping[str, Any] = {"target": None, "schedule": {"start_epoch": None, "end_epoch": None}}


def trained(
    run: Path, epochs: int, pruning: Mapping[str, Any] = MappingProxyType({}), /, **metrics: float
) -> tuple[Training, list[Event]]:
    """Epochs that report the same, and what people were told of what was taken for granted."""
    training, heard = Training(run, pruning=pruning), ListSink()
    training.session.log.telling.sinks.append(heard)
    for _ in range(epochs):
        training.train_epoch()
        training.session.end_epoch(**metrics)
    kinds = (assumed.MetricTaken, assumed.MetricUnclear, assumed.ProbeDecides)
    return training, [event for event in heard.events if isinstance(event, kinds)]


@pytest.mark.parametrize("name", ["val_acc", "val_loss"])
def test_the_one_metric_that_is_reported_decides_and_is_told_once(tmp_path: Path, name: str) -> None:
    training, told = trained(tmp_path, 4, loss=1.0, **{name: 0.5})
    session = training.session
    assert told == [assumed.MetricTaken(name, "more" if name == "val_acc" else "less")]
    assert (session.metric, session.parts.terms.higher_is_better) == (name, name == "val_acc")
    assert json.loads((tmp_path / "run.json").read_text())["metric"] == name
    assert "mask" in training.marks()
    session.detach()


@pytest.mark.parametrize("metrics", [{}, {"loss": 1.0}, {"f1": 0.5, "acc": 0.5}])
def test_where_no_metric_can_be_meant_the_loss_on_the_probe_decides_when_a_mask_is_awaited(
    tmp_path: Path, metrics: dict[str, float]
) -> None:
    training, told = trained(tmp_path, EPOCHS, **metrics)
    unclear = [assumed.MetricUnclear("acc, f1")] if len(metrics) > 1 else []
    assert told == [*unclear, assumed.ProbeDecides(3, "accuracy")]
    losses = training.session.log.records("probe_loss")
    assert [record.metric is None for record in losses] == [True] * 2 + [False] * (EPOCHS - 2)
    assert "mask" in training.marks()
    assert "probe_loss" in str(training.session.finish(latency=False))


def test_a_run_that_is_resumed_is_judged_as_before_unless_a_metric_is_named_then(tmp_path: Path) -> None:
    class Said(Training):
        metric = "accuracy"

    training, told = trained(tmp_path, 3)
    assert told == [assumed.ProbeDecides(3, "accuracy")]
    training.session.detach()
    for kind, metric in ((Training, "probe_loss"), (Said, "accuracy")):
        again = kind(tmp_path)
        assert again.session.metric == metric
        again.session.detach()


def test_where_nothing_is_pruned_nobody_is_told_of_the_probe(tmp_path: Path) -> None:
    training, told = trained(tmp_path, 3, UNPRUNED, f1=0.5, acc=0.5)
    assert (training.session.metric, told) == ("accuracy", [])
    training.session.detach()


def test_a_metric_that_was_measured_is_waited_for(tmp_path: Path) -> None:
    training, told = trained(tmp_path, 1, accuracy=0.5)
    for _ in range(2):
        training.train_epoch()
        training.session.end_epoch(f1=0.5)
    assert (training.session.metric, told) == ("accuracy", [])
    assert training.marks() == []
    training.session.detach()
