"""Where seeds can be, and contests between several of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.errors import UnknownPathError
from esper.kasmina.seeds.places import places_in
from esper.nissa import seed_events
from tests.kasmina.seeds.networks import LENIENT, QUICK, Attention, Loop, convolutions, loop


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = F.relu(x + self.bn(self.conv(x)))
        return answer


class Residual(nn.Module):
    """Two stages of blocks, a module that is used twice, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.never = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(2, 2)
        self.layer1 = nn.Sequential(Block(), Block())
        self.twice = Block()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.layer1(self.stem(x))))
        answer: Tensor = self.head(x.mean((2, 3)))
        return answer


def places(model: nn.Module, pattern: str) -> list[str]:
    return places_in(model, lambda: model(torch.randn(2, 1, 4, 4)), pattern, lambda _: True)


def test_auto_finds_the_borders_of_blocks() -> None:
    # The last block of a stage gives what the stage gives: the stage is the place.
    assert places(Residual(), "auto") == ["stem", "layer1", "layer1.0"]
    # Not between a convolution and its normalization.
    assert places(convolutions(), "auto") == ["3", "6"]


def test_auto_leaves_out_what_is_passed_by_in_evaluation_and_a_pattern_may_name_it() -> None:
    training = loop(make=Attention)
    auto, inside = training.grown.places(), training.grown.places("blocks.2.*")
    assert auto
    assert {"blocks.2.norm1", "blocks.2.dropout"} <= set(inside)
    assert not set(auto) & set(inside)
    training.close()


def test_patterns_name_modules_that_are_called_once() -> None:
    assert places(Residual(), "layer1.*") == [
        *("layer1.0", "layer1.0.conv", "layer1.0.bn"),
        *("layer1.1", "layer1.1.conv", "layer1.1.bn"),
    ]
    for pattern in ("twice", "never", "tail*"):
        with pytest.raises(UnknownPathError, match="could have a seed"):
            places(Residual(), pattern)


def test_where_auto_finds_nothing_it_says_what_it_looks_for() -> None:
    class Plain(nn.Module):
        """Activations between the layers are functions, as in many networks that people write."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.two(torch.relu(self.one(x))))

    with pytest.raises(
        UnknownPathError, match=r"as 'auto' looks for: 2 modules .* one, two.*strategy\.slots"
    ):
        places(Plain(), "auto")


def contest(settings: dict[str, Any]) -> Loop:
    training = loop(settings)
    results = training.grown.try_out(training.grown.places("[2-6]"), width=3)
    # A flat output is no place for a convolution; its seed is another one, and as good as the others.
    assert {path for path, result in results.items() if result.passed} == {"2", "3", "4", "5", "6"}
    return training


def test_of_several_seeds_the_best_goes_on_and_the_others_leave_nothing() -> None:
    training = contest({**LENIENT, "train_steps": 6})
    for _ in range(3):
        training.steps(4)
        training.grown.end_epoch()
    moved = [
        e for e in training.told.events if isinstance(e, seed_events.SeedMoved) and e.after == "BLENDING"
    ]
    culled = [e for e in training.told.events if isinstance(e, seed_events.SeedCulled)]
    assert len(moved) == 1
    assert moved[0].evidence.startswith("The best of 5.")
    assert len(culled) == 4
    assert all(f"{moved[0].slot} brings more" in event.evidence for event in culled)
    training.close()


def test_where_none_helps_none_goes_on() -> None:
    training = contest(
        {**QUICK, "min_gain": 1e6, "patience_epochs": 1, "max_parameters": 1e9, "embargo_epochs": 9}
    )
    for _ in range(2):
        training.steps(4)
        training.grown.end_epoch()
    assert {slot.stage.name for slot in training.grown.slots.values()} == {"EMBARGOED"}
    assert training.grown.places("[0-3]") == ["0", "1"]  # nothing germinates where an embargo holds
    training.close()
