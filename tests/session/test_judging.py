"""What an epoch shows of a mask on trial: a fall of one epoch alone is held against held-out data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from esper.nissa import ListSink, events
from tests.session.runs import Training


def test_a_metric_that_falls_in_one_epoch_alone_takes_no_mask_back_that_held_out_data_bears(
    tmp_path: Path,
) -> None:
    training = Training(tmp_path)
    training.until_masked()
    masked = training.session.parts.network.masks.num_masked
    heard = ListSink()
    training.session.log.telling.sinks.append(heard)
    training.epoch(lambda _: 0.3)
    told = [event for event in heard.events if isinstance(event, events.FellByItself)]
    assert len(told) == 1
    assert "does not show it" in told[0].text
    assert training.session.parts.network.masks.num_masked == masked
    training.epoch(lambda _: 0.5)
    assert "rollback" not in training.marks()
    training.session.detach()


def test_it_does_at_once_where_held_out_data_shows_the_fall_too(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.until_masked()
    trial = training.session.parts.trial
    assert trial.watch is not None
    assert trial.watch.before is not None
    right = np.ones_like(trial.watch.before.correctness)  # as if everything had been right before
    trial.watch = replace(trial.watch, before=replace(trial.watch.before, correctness=right))
    training.epoch(lambda _: 0.3)
    assert training.marks()[-1] == "rollback"
    assert training.session.parts.network.masks.num_masked == 0
    training.session.detach()
