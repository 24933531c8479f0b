"""What follows a network and would not grow along keeps it from growing, whenever it begins."""

from __future__ import annotations

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from esper.nissa import seed_events
from tests.kasmina.seeds.networks import PLACE, Loop, loop


def reasons(training: Loop) -> list[str]:
    return [event.evidence for event in training.told.events if isinstance(event, seed_events.SeedCulled)]


def test_beside_an_average_nothing_germinates_and_once_it_is_gone_something_does() -> None:
    training = loop()
    average = AveragedModel(training.model)
    refused = training.grown.germinate(PLACE, "conv")
    assert not refused.passed
    assert "A module of this process (AveragedModel) follows the network" in str(refused)
    training.steps(2)
    average.update_parameters(training.model)
    del average
    assert training.grown.germinate(PLACE, "conv").passed
    training.close()


@pytest.mark.parametrize("stage", ["TRAINING", "PROBATIONARY"])
def test_an_average_that_begins_after_germination_is_never_left_behind(stage: str) -> None:
    training = loop()
    training.grown.germinate(PLACE, "conv")
    slot = training.until(stage) if stage != "TRAINING" else training.grown.slots[PLACE]
    average = AveragedModel(training.model)
    for _ in range(3):
        training.steps(4)
        average.update_parameters(training.model)
        training.grown.end_epoch()
    assert slot.stage.name in ("EMBARGOED", "RESETTING", "DORMANT")
    average.update_parameters(training.model)  # as the loop goes on
    assert ["(AveragedModel) follows the network" in why for why in reasons(training)] == [True]
    training.close()


@pytest.mark.parametrize("is_averaged", [True, False])
def test_weights_in_a_dict_count_where_the_loop_averages_into_them(is_averaged: bool) -> None:
    training = loop()
    kept = {name: value.clone() for name, value in training.model.state_dict().items()}
    training.grown.germinate(PLACE, "conv")
    training.steps(4)
    if is_averaged:
        with torch.no_grad():
            for name, value in training.model.named_parameters():
                kept[name].lerp_(value, 0.1)
    training.grown.end_epoch()
    assert training.grown.slots[PLACE].stage.name == ("EMBARGOED" if is_averaged else "BLENDING")
    assert ["A dict of this process" in why for why in reasons(training)] == [True] * is_averaged
    training.close()
    assert {type(value) for value in kept.values()} == {torch.Tensor}  # nothing of it is watched any more
