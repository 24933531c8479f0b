"""Which steps count where several optimizers train one network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import esper
from esper.nissa import ListSink
from esper.session.rounds import Rounds
from tests.session.runs import examples, settings, small_network

STEPS = {
    "aaa": 3,
    "abab": 2,
    "baba": 2,
    "abbabb": 2,  # a critic that steps twice
    "aabb": 2,
    "bbb": 3,
    "aa|bb": 4,
    "bb|aa": 4,
    "bdbd": 2,
    "cab": 1,
}


@pytest.mark.parametrize("steps", STEPS)
def test_steps_of_the_first_count_and_where_it_rests_rounds_of_the_others(steps: str) -> None:
    model, other, begun = nn.Linear(2, 2), nn.Linear(2, 2), [0]
    optimizers = {
        "a": torch.optim.SGD([model.weight], 0.1),
        "b": torch.optim.SGD([model.bias], 0.1),
        "c": torch.optim.SGD(other.parameters(), 0.1),
        "d": torch.optim.Adam([model.bias], 0.1),
    }

    def count() -> None:
        begun[0] += 1

    counting = Rounds(model, tuple(optimizers.values()), count)
    for name in steps:
        if name == "|":
            counting.end()
        else:
            optimizers[name].step()
    counting.detach()
    optimizers["a"].step()
    assert begun == [STEPS[steps]]


def test_one_that_nobody_gave_counts_once_it_takes_the_place_of_the_first_and_that_is_told() -> None:
    model, other, begun, told = nn.Linear(2, 2), nn.Linear(2, 2), [0], ListSink()

    def count() -> None:
        begun[0] += 1

    first, second = torch.optim.SGD(model.parameters(), 0.1), torch.optim.Adam(model.parameters())
    counting = Rounds(model, (first,), count, told.emit)
    second.step()  # before the first one was ever heard: perhaps the wrong one was given
    counting.end()
    for stepping in (first, second, torch.optim.SGD(other.parameters(), 0.1)):
        stepping.step()
    counting.end()
    assert (begun, told.events) == ([1], [])
    second.step()
    second.step()
    counting.end()
    counting.detach()
    second.step()
    assert begun == [3]
    assert [event.text.partition(" that")[0] for event in told.events] == [
        "The given SGD rests, and another one (Adam)"
    ]


def test_an_epoch_of_the_second_optimizer_alone_is_saved(tmp_path: Path) -> None:
    model, sample = small_network(), examples(16, 0)
    head, rest = (
        torch.optim.AdamW(model[-1].parameters(), 0.01),
        torch.optim.SGD(model[:-1].parameters(), 0.01),
    )
    session = esper.attach(
        model, head, loss=F.cross_entropy, sample=sample, run_dir=tmp_path, scheduler=rest, config=settings()
    )
    for epoch, stepping in enumerate((head, rest), 1):
        F.cross_entropy(model(sample[0]), sample[1]).backward()
        stepping.step()
        session.end_epoch(accuracy=0.5)
        assert session.step == epoch
    session.detach()
    assert [checkpoint.step for checkpoint in session.parts.saving.store.list().checkpoints][-1] == 2
