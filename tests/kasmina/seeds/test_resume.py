"""A growing run goes on from a checkpoint in a fresh process as if it had never stopped."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper.checkpoint import CheckpointStore, capture_trainer, load_trainer, open_key_ring, restore_trainer
from esper.errors import CheckpointError, ConfigError, UnknownPathError
from esper.kasmina.seeds.slot import Track
from esper.tezzeret import blueprint
from tests.kasmina.seeds.networks import LENIENT, PLACE, Loop, differing, loop, snapshot

SCHEDULE: dict[int, tuple[str, str]] = {
    1: ("germinate", PLACE),
    2: ("germinate", "4"),
    44: ("cull", "4"),
}
"""What is done by hand before these steps; an epoch ends after every fourth."""


class Story:
    """A run in which one seed becomes a part of the network, and another is culled."""

    def __init__(self, isolation: str) -> None:
        settings = {**LENIENT, "isolation": isolation, "ramp_steps": 6, "embargo_epochs": 9}
        self.training = loop(settings)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.training.optimizer, 5, 0.9)
        self.step = 0

    def go(self, until: int) -> None:
        growth = self.training.grown
        while self.step < until:
            what, path = SCHEDULE.get(self.step, ("", ""))
            if what == "germinate":
                assert growth.germinate(path, "bottleneck").passed
            elif what == "cull" and growth.slots[path].stage.name == "PROBATIONARY":
                growth.cull(path)
            self.training.steps(1)
            self.scheduler.step()
            self.step += 1
            if self.step % 4 == 0:
                growth.end_epoch()

    def parts(self) -> tuple[Loop, dict[str, Any]]:
        given = {"schedulers": [self.scheduler], "generators": {"batches": self.training.batches}}
        return self.training, given

    def stages(self) -> dict[str, str]:
        return {path: slot.stage.name for path, slot in self.training.grown.slots.items()}


@pytest.mark.parametrize("isolation", ["semi", "strict"])
@pytest.mark.parametrize("stop", [5, 11, 21, 27])
def test_the_steps_after_a_checkpoint_are_bitwise_those_that_would_have_followed(
    isolation: str, stop: int, tmp_path: Path
) -> None:
    first = Story(isolation)
    first.go(stop)
    training, given = first.parts()
    state = capture_trainer(
        training.model,
        training.optimizer,
        step=stop,
        epoch=0,
        extra={"growth": training.grown.state()},
        **given,
    )
    ring = open_key_ring(tmp_path, create=True)
    with CheckpointStore(tmp_path, keyring=ring, model="grown") as store:
        store.save(stop, 0, state.files())
        stopped = first.stages()
        first.go(stop + 12)
        wanted = {**snapshot(training), **seeds(first)}
        training.close()

        second = Story(isolation)
        training, given = second.parts()
        saved = load_trainer(store.search().found)  # type: ignore[arg-type]
    training.grown.check(saved.extra["growth"])
    training.grown.load(saved.extra["growth"])
    restore_trainer(saved, training.model, training.optimizer, **given)
    second.step = stop
    assert second.stages() == stopped
    second.go(stop + 12)
    assert second.stages() == first.stages()
    assert not differing(wanted, {**snapshot(training), **seeds(second)})
    assert tracks(second) == tracks(first)
    training.close()


def tracks(story: Story) -> list[Track]:
    """All that is remembered in plain values, without the time that was measured in between."""
    return [replace(slot.track, evidence="") for slot in story.training.grown.slots.values()]


def seeds(story: Story) -> dict[str, torch.Tensor]:
    """Weights and moments of seeds that the host does not own."""
    tensors: dict[str, torch.Tensor] = {}
    for path, slot in story.training.grown.slots.items():
        if slot.layer is not None and slot.learner is not None:
            tensors |= {f"{path} {name}": value for name, value in slot.layer.seed.state_dict().items()}
            kept = enumerate(slot.learner.optimizer.state.values())
            tensors |= {f"{path} {n} {key}": value for n, values in kept for key, value in values.items()}
    return tensors


def test_a_rollback_takes_seeds_back_that_have_become_a_part_of_the_network() -> None:
    training, states, wants = loop(), [], []
    training.steps(2)

    def keep() -> None:
        parts = (training.grown.state(), training.model.state_dict(), training.optimizer.state_dict())
        states.append(copy.deepcopy(parts))
        wants.append({name: tensor.clone() for name, tensor in training.model.state_dict().items()})

    keep()
    training.grown.germinate(PLACE, "conv")
    training.until("FOSSILIZED")
    training.steps(6)
    keep()
    for state, wanted in zip(states, wants, strict=True):
        growth, weights, optimizer = copy.deepcopy(state)
        training.grown.load(growth)
        training.model.load_state_dict(weights)
        training.optimizer.load_state_dict(optimizer)
        assert not differing(wanted, training.model.state_dict())
        assert len(training.optimizer.state) == len(list(training.model.parameters()))
        assert training.grown.owners.of_all() == set(training.model.parameters())
        training.steps(1)
    training.close()


def test_a_state_that_does_not_fit_is_refused_before_anything_changes() -> None:
    training = loop()
    training.grown.germinate(PLACE, "conv")
    state = training.grown.state()
    training.close()
    other = loop(make=lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    with pytest.raises(UnknownPathError, match="'2'"):
        other.grown.check(state)
    with pytest.raises(CheckpointError, match="version 99"):
        other.grown.check({**state, "version": 99})
    other.close()
    mine = loop(blueprints={"mine": blueprint("conv", {})})
    state["slots"][0]["track"]["blueprint"] = "mine"
    mine.grown.check(state)
    mine.close()
    wider = loop(blueprints={"mine": lambda like: blueprint("conv", {})(like, width=9)})
    with pytest.raises(CheckpointError, match=r"'mine', which makes another module .*Nothing was changed"):
        wider.grown.check(state)
    wider.close()
    without = loop()
    with pytest.raises(ConfigError, match="no blueprint 'mine'"):
        without.grown.check(state)
    without.close()


def test_what_has_grown_is_whole_where_its_state_is_read_with_a_longer_ramp() -> None:
    first = Story("semi")
    first.go(40)
    assert first.stages()[PLACE] == "FOSSILIZED"
    grown = first.training.grown.finish()
    state = json.loads(json.dumps(first.training.grown.state()))  # plain values, once growing has ended
    other = loop({**LENIENT, "ramp_steps": 1_000})
    other.grown.load(state)
    read = other.grown.finish()
    assert read.state_dict().keys() == grown.state_dict().keys()
    assert any(name.startswith(f"{PLACE}.seed.") for name in read.state_dict())
