"""Analysis on request: the original design's arguments and keys, real workers, a deadline that holds."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of
from esper.batches import HeldOut
from esper.elesh import AnalysisSettings
from esper.emrakul.request.on_request import OfflinePruning
from esper.emrakul.settings import Settings
from esper.importance import magnitude
from esper.urabrask import RetentionLimits
from esper.urabrask import Settings as ValidationSettings
from esper.workers import InlinePool, LocalPool, WorkerPool
from tests.elesh.cases import examples, network

KEYS = {
    "success",
    "masks",
    "strategy",
    "parameters_analyzed",
    "parameters_pruned",
    "safety_validation",
    "error",
}
LENIENT = ValidationSettings(limits=RetentionLimits(channel=1.0), min_retention=0.01)


class Subject:
    """A network, its statistics, and the analysis of it."""

    def __init__(
        self, pool: Callable[[], WorkerPool], validation: ValidationSettings = LENIENT, *, start: int = 1
    ) -> None:
        self.model = network()
        sample = examples(4, 0)
        traced = trace(self.model, sample, torch.nn.functional.cross_entropy)
        self.anatomy = anatomy_of(traced, self.model)
        held_out = HeldOut((examples(32, 100), examples(32, 101)), (examples(64, 200), examples(64, 201)))
        schedule = {"start_epoch": start, "end_epoch": start + 1, "max_rest_epochs": 0}
        plan = {"required_confidence": 0.0}
        self.analysis = OfflinePruning(
            Twin.of(traced),
            self.anatomy,
            sample,
            held_out,
            Settings.model_validate({"target": {"flops": 0.4}, "schedule": schedule, "plan": plan}),
            pool,
            weights={"taylor": 0.5, "magnitude": 0.5},
            analysis=AnalysisSettings(min_optimizer_steps=10),
            validation=validation,
        )

    def stats(self, samples: int = 10) -> dict[str, Any]:
        scores = magnitude(self.anatomy, dict(self.model.named_parameters()))
        spans = {group.name: self.anatomy.unit_slice(n) for n, group in enumerate(self.anatomy.groups)}
        one = {"samples": samples, "scores": {name: scores[span] for name, span in spans.items()}}
        return {"rank-0": one, "rank-1": one}

    def ask(self, timeout_seconds: float = 60.0, samples: int = 10) -> dict[str, Any]:
        state = self.model.state_dict()
        return asyncio.run(self.analysis.analyze_and_prune(self.stats(samples), state, timeout_seconds))


def test_an_accepted_plan_comes_back_as_masks_that_are_the_cut_and_the_caller_is_left_alone() -> None:
    made = Subject(lambda: LocalPool(1, ("torch", "safetensors.torch")))
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    result = made.ask()
    assert result["error"] is None
    assert result.keys() >= KEYS
    assert result["success"]
    assert result["safety_validation"]
    hidden = sum(int((~mask).sum()) for mask in result["masks"].values())
    assert result["parameters_pruned"] == hidden > 0
    assert result["parameters_analyzed"] == sum(p.numel() for p in made.model.parameters())
    for name, mask in result["masks"].items():
        assert mask.dtype == torch.bool
        assert mask.shape == before[name].shape
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
    assert int((~made.analysis.keep).sum()) > 0
    assert made.analysis.state.history[-1].status == "accepted"


def test_a_refusal_is_a_success_without_masks_and_is_not_validated() -> None:
    made = Subject(InlinePool, ValidationSettings(memory_limit_bytes=1))
    result = made.ask()
    assert result["success"]
    assert (result["masks"], result["parameters_pruned"], result["safety_validation"]) == ({}, 0, False)
    assert made.analysis.keep.all()
    assert "MiB" in result["reason"]


def test_before_its_start_nothing_is_due_and_no_worker_is_asked() -> None:
    result = Subject(InlinePool, start=5).ask()
    assert result["success"]
    assert result["masks"] == {}
    assert result["strategy"] == "before"


def test_too_few_samples_mean_that_nothing_is_measured_and_nothing_goes() -> None:
    result = Subject(InlinePool).ask(samples=4)  # 4 + 4 of 10
    assert result["masks"] == {}
    assert "unmeasured" in result["reason"]


def test_statistics_of_another_network_are_refused_with_the_reason() -> None:
    made = Subject(InlinePool)
    stats = {"seed": {"samples": 100, "scores": {"other": np.ones(4)}}}
    result = asyncio.run(made.analysis.analyze_and_prune(stats, made.model.state_dict()))
    assert not result["success"]
    assert "does not have" in result["error"]


@pytest.mark.parametrize("seconds", [0.05])
def test_past_its_deadline_it_returns_without_masks_and_leaves_no_worker(seconds: float) -> None:
    pools: list[LocalPool] = []

    def opened() -> LocalPool:
        pools.append(LocalPool(1, ("torch", "safetensors.torch")))
        return pools[-1]

    result = Subject(opened).ask(seconds)
    assert not result["success"]
    assert result["masks"] == {}
    assert result["error"]
    assert len(pools) == 1


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "emrakul.md").read_text()
    _, _, section = page.partition("## On request")
    (tmp_path / "example.py").write_text(section.partition("```python\n")[2].partition("```")[0])
    torch.manual_seed(0)
    result = runpy.run_path(str(tmp_path / "example.py"))["result"]
    assert result.keys() >= KEYS
    assert result["success"], result["error"]
    assert result["safety_validation"] == (result["parameters_pruned"] > 0)
    assert result["masks"], result["reason"]
