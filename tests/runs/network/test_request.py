"""Analysis on request: the original design's arguments and keys, about the checkpoint of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esper.anatomy import Anatomy
from esper.errors import EvidenceError
from esper.importance import magnitude
from esper.runs import checkpoint_at
from esper.runs.network.request import OfflinePruning
from esper.workers import InlinePool
from tests.session.runs import Training

KEYS = {
    "success",
    "masks",
    "strategy",
    "parameters_analyzed",
    "parameters_pruned",
    "safety_validation",
    "error",
}


class Asked:
    """A run of two epochs, and what is asked about its newest checkpoint."""

    def __init__(self, run: Path) -> None:
        training = Training(run)
        training.epoch()
        training.epoch()
        self.anatomy: Anatomy = training.session.parts.network.anatomy
        training.session.detach()
        self.tensors = {name: value.clone() for name, value in training.model.state_dict().items()}
        self.run = run

    def scores(self) -> dict[str, Any]:
        each = magnitude(self.anatomy, self.tensors)
        return {group.name: each[self.anatomy.unit_slice(n)] for n, group in enumerate(self.anatomy.groups)}

    def answer(self, stats: Mapping[str, Mapping[str, Any]], seconds: float = 60.0) -> dict[str, Any]:
        pruning = OfflinePruning(*checkpoint_at(self.run), InlinePool)
        return asyncio.run(pruning.analyze_and_prune(stats, self.tensors, seconds))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    return Asked(tmp_path_factory.mktemp("asked") / "run")


def test_an_accepted_plan_comes_back_as_masks_and_everything_else_is_left_alone(asked: Asked) -> None:
    before = {name: value.clone() for name, value in asked.tensors.items()}
    files = {path: path.stat().st_mtime_ns for path in asked.run.rglob("*")}
    one = {"samples": 10, "scores": asked.scores()}
    result = asked.answer({"rank-0": one, "rank-1": one})
    assert result["error"] is None
    assert result.keys() >= KEYS
    assert result["success"]
    assert result["safety_validation"]
    assert result["strategy"] == "ramp"
    hidden = sum(int((~mask).sum()) for mask in result["masks"].values())
    assert result["parameters_pruned"] == hidden > 0
    assert result["parameters_analyzed"] == sum(value.numel() for value in before.values())
    for name, mask in result["masks"].items():
        assert (mask.dtype, mask.shape) == (torch.bool, before[name].shape)
    assert all(torch.equal(value, before[name]) for name, value in asked.tensors.items())
    assert {path: path.stat().st_mtime_ns for path in asked.run.rglob("*")} == files


def test_past_its_deadline_there_is_a_reason_and_no_mask(asked: Asked) -> None:
    result = asked.answer({"rank": {"samples": 10, "scores": asked.scores()}}, seconds=1e-3)
    assert not result["success"]
    assert (result["masks"], result["parameters_pruned"], result["safety_validation"]) == ({}, 0, False)
    assert result["error"]


def test_a_group_of_another_width_or_an_importance_below_zero_is_refused(asked: Asked) -> None:
    name, scores = next(iter(asked.scores().items()))
    for wrong in (scores[1:], -scores - 1, np.full(scores.size, np.inf) * -1):
        with pytest.raises(EvidenceError, match="numbers of 0 or more"):
            asked.answer({"seed": {"samples": 100, "scores": {name: wrong}}})
