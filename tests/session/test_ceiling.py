"""A target that no training can reach is told of when the run begins and when it ends, with what holds it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.session.runs import Training


class Held(nn.Module):
    """Most of its work is in products over a width that a normalization holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(8, 16), nn.Linear(16, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.last(torch.softmax(self.inner(torch.relu(self.first(x))), -1))
        return mixed


class HeldTraining(Training):
    build = Held


def told(run: Training) -> list[str]:
    return [note for note in run.session.log.notes if "are asked for, and at most" in note]


def test_what_holds_most_of_a_network_is_told_at_once_and_before_all_else_at_the_end(tmp_path: Path) -> None:
    run = HeldTraining(tmp_path / "run", pruning={"target": {"flops": 0.9}})
    said = told(run)
    assert len(said) == 1
    assert said[0].startswith("90.0% of the flops are asked for, and at most 7")
    assert "softmax runs over it (91%" in said[0]
    assert "Lower the target" in said[0]
    run.epoch()
    result = run.session.finish(latency=False)
    assert told(run) == said
    assert "because at most 7" in result.why
    assert "softmax" in result.why
    assert "; besides, the run ended after epoch 1" in result.why
    assert result.why.endswith("or change what holds the rest.")


def test_floors_that_were_asked_for_hold_too(tmp_path: Path) -> None:
    run = Training(tmp_path / "run", pruning={"target": {"flops": 0.5}, "floors": {"min_keep_fraction": 0.9}})
    (said,) = told(run)
    assert "the floors of pruning.floors, in " in said
    run.session.detach()


@pytest.mark.parametrize("cost", ["flops", "parameters"])
def test_of_a_target_within_reach_nothing_is_said(tmp_path: Path, cost: str) -> None:
    run = Training(tmp_path / "run", pruning={"target": {cost: 0.7}})
    assert not told(run)
    run.epoch()
    assert "can go" not in run.session.finish(latency=False).why
