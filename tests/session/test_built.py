"""A script that resumes a run and says something otherwise than when it began is told so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from esper.errors import CheckpointError, ConfigError
from esper.nissa import given_events
from esper.session import Session
from esper.session.built import Built
from tests.session.runs import settings, small_network
from tests.session.test_bad_input import attach


def adam(lr: float = 1e-3, **more: Any) -> Adam:
    return Adam(small_network().parameters(), lr, **more)


def changes(began: Built, now: Built) -> Sequence[str]:
    for told in now.otherwise(began.state()):
        assert isinstance(told, given_events.BuiltOtherwise)
        return told.changes
    return ()


def cosine(optimizer: Optimizer, length: int) -> LRScheduler:
    warmup = LinearLR(optimizer, 0.1, total_iters=2)
    return SequentialLR(optimizer, [warmup, CosineAnnealingLR(optimizer, length)], [2])


def test_a_script_that_builds_the_same_is_told_nothing_however_far_the_run_has_come() -> None:
    optimizer = adam()
    schedulers = OneCycleLR(optimizer, 1e-2, total_steps=20), ReduceLROnPlateau(optimizer)
    began = Built(optimizer, schedulers)
    for _ in range(10):
        optimizer.step()
        schedulers[0].step()
        schedulers[1].step(0.5)
    fresh = adam()
    assert not changes(
        began, Built(fresh, [OneCycleLR(fresh, 1e-2, total_steps=20), ReduceLROnPlateau(fresh)])
    )
    assert not changes(began, Built(optimizer, schedulers))  # a framework has loaded its own before


def test_what_is_built_otherwise_is_named_once_with_what_it_was() -> None:
    began, now = adam(1e-3, betas=(0.9, 0.999)), adam(1e-4, betas=(0.8, 0.999))
    now.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
    assert changes(Built(began, []), Built(now, [])) == (
        "lr of Adam is 0.0001 and was 0.001",
        "betas of Adam is [0.8, 0.999] and was [0.9, 0.999]",
    )
    first, second = adam(), adam()
    built = Built(first, [cosine(first, 8)]), Built(second, [cosine(second, 14)])
    assert changes(*built) == ("T_max of SequentialLR is 14 and was 8",)
    scheduled = adam(1e-4)
    assert changes(Built(first, [StepLR(first, 3)]), Built(scheduled, [StepLR(scheduled, 3)])) == (
        "lr of Adam is 0.0001 and was 0.001",
    )
    further = Built(first, [SGD(small_network().parameters(), 0.1)])
    assert changes(further, Built(first, [SGD(small_network().parameters(), 0.2)])) == (
        "lr of SGD is 0.2 and was 0.1",
    )


class Stream:
    """Data that is saved with the run; where it stands is no setting."""

    def __init__(self, order: list[int]) -> None:
        self.order = order

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order = state["order"]


def test_what_else_is_given_beside_schedulers_has_no_settings() -> None:
    optimizer = adam()
    began, now = (Built(optimizer, [Stream(order)]) for order in ([1, 2], [2, 1]))
    assert not changes(began, now)
    assert "order" not in str(began.state())


def test_what_was_built_when_the_run_began_is_what_later_resumes_are_held_against() -> None:
    began, now = Built(adam(1e-3), []), Built(adam(1e-4), [])
    now.load(began.state())
    assert now.state() == began.state()
    assert not now.otherwise(None)  # of an older run


def test_a_script_that_resumes_otherwise_is_refused_or_told_what_becomes_of_it(
    tmp_path: Path,
) -> None:
    def again(lr: float, schedule: type[Any] = StepLR, **more: Any) -> Session:
        model = small_network()
        optimizer = torch.optim.AdamW(model.parameters(), lr)
        given = {"optimizer": optimizer, "scheduler": schedule(optimizer, 3), "metric": "accuracy"}
        given |= {"resume": True, **more}
        return attach(tmp_path / "run", model, **given)

    again(1e-2).detach()
    same = again(1e-2)
    assert not [note for note in same.log.notes if "changed" in note or "Nothing more" in note]
    same.detach()
    with pytest.raises(CheckpointError, match=r"began with StepLR .* CosineAnnealingLR was given"):
        again(1e-2, CosineAnnealingLR)
    with pytest.raises(ConfigError, match=r"decided by metric='accuracy', .* metric='loss'"):
        again(1e-2, metric="loss")
    with pytest.raises(ConfigError, match="higher_is_better=False was given"):
        again(1e-2, higher_is_better=False)
    without = settings(pruning={"target": None, "schedule": {"start_epoch": None, "end_epoch": None}})
    otherwise = again(1e-3, config=without)
    assert any("lr of AdamW is 0.001 and was 0.01" in note for note in otherwise.log.notes)
    assert any("Nothing more is masked" in note for note in otherwise.log.notes)
    otherwise.detach()
