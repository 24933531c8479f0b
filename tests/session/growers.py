"""Small real runs in which one seed becomes a part of the network and another is culled."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from esper.anatomy.graph import named_tensors
from tests.kasmina.seeds.networks import LENIENT
from tests.session.runs import Training

KEPT, CULLED = "1", "4"
LENGTH = 12
GROWN: dict[str, Any] = {
    "pruning": {"target": None},
    "growing": {**LENIENT, "train_steps": 4, "ramp_steps": 15, "embargo_epochs": 1, "check_every": 5},
}
"""Nothing is pruned, and gates open for nearly everything; an epoch has six steps."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    first = (nn.Linear(8, 12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 12), nn.BatchNorm1d(12), nn.ReLU())
    return nn.Sequential(*first, nn.Linear(12, 4))


class GrowingTraining(Training):
    """Grows at two places by a fixed plan: what is done after which epoch."""

    build: Callable[[], nn.Module] = staticmethod(network)
    length: ClassVar[Mapping[str, Any]] = {"epochs": 2 * LENGTH}
    plan: dict[int, tuple[str, str]] = {1: ("grow", KEPT), 2: ("grow", CULLED), 5: ("cull", CULLED)}  # noqa: RUF012

    def __init__(self, run_dir: Path, kind: str = "adamw", **changes: Any) -> None:
        super().__init__(run_dir, kind, **{**GROWN, **changes})

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = self.session.loss(self.model(inputs), targets, inputs)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def epoch(self, metric: Callable[[float], float] = float) -> None:
        self.act()
        super().epoch(metric)

    def go(self, until: int) -> None:
        while self.session.epoch < until:
            self.epoch()

    def act(self) -> None:
        """What the plan says for the epoch that begins, unless it was done already."""
        what, path = self.plan.get(self.session.epoch, ("", ""))
        slots = self.session.growing.slots
        if what == "grow" and (path not in slots or slots[path].stage.name == "DORMANT"):
            assert self.session.grow(path, "mlp", width=6).passed
        elif what == "cull" and slots[path].stage.name not in ("CULLED", "EMBARGOED"):
            self.session.growing.cull(path)

    def stages(self) -> dict[str, str]:
        return {path: slot.stage.name for path, slot in self.session.growing.slots.items()}

    def state(self) -> dict[str, Any]:
        growing = self.session.growing.state()
        for slot in () if growing is None else growing["slots"]:
            slot["track"]["evidence"] = ""  # has a measured time in it
        state = super().state()
        return {**state, "structure": state["structure"]["changes"], "growing": growing}


class Averaged(GrowingTraining):
    """The same with a running average of the network beside it.

    Args:
        decay: how much of the average stays in a step.
    """

    decay: ClassVar[float] = 0.8

    def companions(self) -> nn.Module:
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.decay))
        return self.average

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        loss = super().step(inputs, targets)
        self.average.update_parameters(self.model)
        return loss

    def state(self) -> dict[str, Any]:
        return {**super().state(), "average": named_tensors(self.average)}


def grow(run_dir: Path, until: int, told: Connection) -> None:
    """Trains (on); tells fingerprint and steps after every epoch, and what seeds went through."""
    training = Averaged(run_dir, checkpoint={"keep_last": 20})
    while training.session.epoch < until:
        training.epoch()
        training.session.parts.saving.settle()
        shutil.copytree(run_dir, copy_of(run_dir, training.session.epoch))
        told.send((training.session.epoch, training.fingerprint(), training.session.step))
    told.send((training.stages(), training.session.log.seeds))
    training.session.detach()


def copy_of(run_dir: Path, epoch: int) -> Path:
    """Where a copy lies of the run as it was after an epoch."""
    return run_dir.with_name(f"{run_dir.name}-{epoch}")


def grow_and_go_back(run_dir: Path, steps: dict[int, int], told: Connection) -> None:
    """Resumes, and goes back to one step after another; tells the fingerprints there and an epoch later."""
    training = Averaged(run_dir, checkpoint={"keep_last": 20})
    for step in steps.values():
        training.session.rollback(step)
        here = training.fingerprint()
        epoch = training.session.epoch
        training.epoch()
        told.send((epoch, here, training.fingerprint()))
    training.session.detach()


def grow_and_die(run_dir: Path, epochs: int, told: Connection) -> None:
    """Trains, and is killed in the middle of the epoch after `epochs`; tells what stood where then."""
    training = Averaged(run_dir)
    training.go(epochs)
    training.session.parts.saving.settle()
    for batch in list(training.batches())[:2]:
        training.step(*batch)
    told.send(training.stages())
    os.kill(os.getpid(), signal.SIGKILL)
