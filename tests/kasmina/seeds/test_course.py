"""What the course refuses at its door, and seeds that it does not wait for for ever."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper.errors import ConfigError
from esper.nissa import Severity, seed_events
from tests.kasmina.seeds.networks import LENIENT, PLACE, Loop, loop


def untaught(training: Loop, epochs: int) -> None:
    """Epochs of a loop that computes its loss by itself."""
    for _ in range(epochs):
        training.optimizer.zero_grad()
        training.criterion(training.model(training.x), training.y).backward()
        training.optimizer.step()
        training.grown.end_epoch()


@pytest.mark.parametrize("stage", ["GERMINATED", "TRAINING"])
@pytest.mark.parametrize("is_contest", [False, True])
def test_a_seed_that_is_never_taught_goes_when_patience_ends(stage: str, is_contest: bool) -> None:
    training = loop({**LENIENT, "train_steps": 100, "patience_epochs": 3})
    if is_contest:
        training.grown.try_out([PLACE, "4"], "conv")
    else:
        training.grown.germinate(PLACE, "conv")
    if stage == "TRAINING":
        for _ in range(6):  # a seed that needs longer than patience, and is taught, stays
            training.steps(1)
            training.grown.end_epoch()
    untaught(training, 2)
    assert training.grown.slots[PLACE].stage.name == stage
    training.grown.end_epoch()  # without a step nobody could have taught it
    assert training.grown.slots[PLACE].stage.name == stage
    untaught(training, 1)
    assert training.grown.slots[PLACE].stage.name == "EMBARGOED"
    culled = [event for event in training.told.events if isinstance(event, seed_events.SeedCulled)]
    assert "No step of 3 epoch(s) took its loss from session.loss" in culled[0].evidence
    assert not training.grown.is_under_way
    training.close()


def test_a_seed_that_waits_because_it_was_told_to_is_not_given_up() -> None:
    training = loop({**LENIENT, "patience_epochs": 2})
    training.grown.germinate(PLACE, "conv")
    training.grown.pause(PLACE)
    untaught(training, 4)
    assert training.grown.slots[PLACE].stage.name == "GERMINATED"
    training.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"isolation": "hard"}, "isolation='hard' is none of 'semi', 'strict'"),
        ({"isolation": ["semi"]}, "is none of"),
        ({"lr": "x"}, "lr='x' is no learning rate"),
        ({"lr": -1}, "lr=-1 is no learning rate"),
        ({"lr": torch.nan}, "lr=nan is no learning rate"),
        ({"lr": 0.0}, "lr=0.0 is no learning rate"),
        ({"lr": True}, "lr=True is no learning rate"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_made(
    arguments: dict[str, Any], words: str
) -> None:
    training = loop()
    with pytest.raises(ConfigError, match=words):
        training.grown.germinate(PLACE, "conv", **arguments)
    with pytest.raises(ConfigError, match=words):
        training.grown.try_out([PLACE], "conv", **arguments)
    assert not training.grown.slots
    training.close()


class Empty(nn.Module):
    """Has a parameter, and there is nothing in it."""

    def __init__(self, _: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.sum()


def test_a_seed_whose_parameters_are_empty_has_none_to_train() -> None:
    training = loop(blueprints={"empty": Empty})
    assert "has parameters to train: no" in str(training.grown.germinate(PLACE, "empty"))
    training.close()


class Late(nn.Module):
    """Goes well on held-out data, and fails in training where `where` says so."""

    def __init__(self, like: Tensor, where: str) -> None:
        super().__init__()
        self.where, self.weight, self.passes = where, nn.Parameter(torch.zeros(like.shape[1:])), 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x) == 16
        if len(x) == 16 and (self.where == "TRAINING" or self.passes > 5):
            raise RuntimeError("late boom")
        return x * self.weight


@pytest.mark.parametrize("where", ["TRAINING", "BLENDING"])
def test_a_seed_that_fails_in_training_goes_and_training_goes_on(where: str) -> None:
    training = loop(blueprints={"late": lambda like: Late(like, where)})
    assert training.grown.germinate(PLACE, "late").passed
    training.until("EMBARGOED", epochs=9)
    culled = [event for event in training.told.events if isinstance(event, seed_events.SeedCulled)]
    assert culled[0].evidence == "It failed: RuntimeError: late boom."
    assert culled[0].before == where
    training.steps(2)
    training.close()


def test_a_seed_that_fails_on_held_out_data_only_where_it_stands_is_refused() -> None:
    class Second(nn.Module):
        def __init__(self, _: Tensor) -> None:
            super().__init__()
            self.weight, self.passes = nn.Parameter(torch.zeros(())), 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            if self.passes > 1:
                raise RuntimeError("once is enough")
            return x * self.weight

    training = loop(blueprints={"second": Second})
    with pytest.raises(ConfigError, match="'second' made fails in the network: RuntimeError: once is enough"):
        training.grown.germinate(PLACE, "second")
    assert not training.grown.slots
    training.steps(1)
    training.close()


@pytest.mark.parametrize("is_enough", [True, False])
def test_a_seed_that_the_end_of_the_run_would_tear_out_is_not_blended_in(is_enough: bool) -> None:
    needed = 2 + LENIENT["probation_epochs"]  # its ramp has 8 steps, and an epoch 4
    left = needed if is_enough else needed - 1
    training = loop({**LENIENT, "train_steps": 4, "ramp_steps": 8})
    training.grown.germinate(PLACE, "conv")
    slot = training.grown.slots[PLACE]
    for further in range(left, -1, -1):
        training.steps(4)
        training.grown.end_epoch(further)
        if further == left:
            assert slot.stage.name == ("BLENDING" if is_enough else "EMBARGOED")
    assert (slot.stage.name == "FOSSILIZED") is is_enough
    culled = [event.evidence for event in training.told.events if isinstance(event, seed_events.SeedCulled)]
    told = f"ends in {left} epoch(s), and to prove itself in the network it would need {needed}"
    assert [told in why for why in culled] == [True] * (not is_enough)
    training.close()


def test_of_a_place_where_nothing_grew_people_are_not_told_that_something_stays() -> None:
    training = loop({**LENIENT, "embargo_epochs": 0})
    training.grown.germinate(PLACE, "conv")
    training.grown.cull(PLACE)
    for _ in range(2):
        training.grown.end_epoch()
    assert training.grown.slots[PLACE].stage.name == "DORMANT"
    training.grown.finish()
    last = training.told.events[-1]
    assert isinstance(last, seed_events.PlaceClosed)
    assert last.severity is Severity.DETAIL
