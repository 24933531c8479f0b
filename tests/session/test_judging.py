"""What an epoch shows of a mask, and what becomes of one when a run ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from esper.emrakul import MaskState
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


@pytest.mark.parametrize(("is_proved", "is_saved"), [(False, False), (True, False), (True, True)])
def test_weights_from_before_a_mask_do_not_lose_its_units_when_the_run_ends(
    tmp_path: Path, is_proved: bool, is_saved: bool
) -> None:
    training = Training(tmp_path, pruning={"cut": {"min_saved_fraction": 1.0}})
    best = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.until_masked()
    if is_proved:
        training.until(lambda: training.session.parts.trial.mask is MaskState.NONE)
    inputs = training.held_out[0]
    expected = training.model.eval()(inputs)
    if is_saved:  # by an epoch of training that ends with them
        training.session.pruning.cycles.drop()  # nothing else is masked where it ends
        training.train_epoch()
    training.model.load_state_dict(best)
    if is_saved:
        training.session.end_epoch(accuracy=0.5)
    result = training.session.finish(latency=False)
    told = {mark.kind: mark.text for mark in training.session.log.marks}
    assert "from before a mask" in told["rollback"]
    assert "cut" in told
    torch.testing.assert_close(result.model.eval()(inputs), expected)


def test_a_fall_under_a_mask_that_was_taken_back_is_no_noise_to_the_next_one(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.until_masked()
    for _ in range(2):
        training.epoch(lambda _: 0.2)
    assert training.marks()[-1] == "rollback"
    training.until_masked()
    watch = training.session.parts.trial.watch
    assert watch is not None
    assert watch.baseline.metric == 0.5
    assert watch.baseline.metric_noise < 0.05
    training.session.detach()
