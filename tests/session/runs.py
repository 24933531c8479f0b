"""Small real training runs: a network of 1,500 parameters learns a rule about four of its inputs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import esper
from esper.checkpoint import encode, tensor_bytes
from esper.emrakul import Allowance, Schedule, Settings
from esper.emrakul.cycle import CycleEnd
from esper.session.companions import GivenCompanions
from esper.session.session import Session
from esper.tamiyo import Policy

EPOCHS = 6


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs [count, 8]; the target is which of the first four is largest in size."""
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :4].abs().argmax(1)


def settings(**changes: Any) -> esper.Config:
    """Removes 40 % of the FLOPs from epoch 2 to 5, analyzed in this process, the same in every run."""
    given: dict[str, Any] = {
        "pruning": {
            "target": {"flops": 0.4},
            "schedule": {"start_epoch": 2, "end_epoch": 5},
            "budget": {"compute_fraction": None},
        },
        "analysis": {
            "workers": 0,
            "min_optimizer_steps": 1,
            "calibration_samples": 64,
            "held_out_samples": 128,
            "max_wait_seconds": 240.0,  # on a busy machine a worker may need much more than the default
        },
        "validation": {"limits": {"channel": 0.5}, "min_retention": 0.01},
        "importance": {"stride": 1, "min_importance_samples": 0, "min_sampled_steps": 1},
    }
    for section, values in changes.items():
        given[section] = {**given.get(section, {}), **values}
    # One step at a time, so that short runs have several; and at once, before anything is learned.
    pruning = given["pruning"]
    pruning["schedule"] = {
        "max_sure_fraction": 0.0,
        "min_learned_fraction": 0.0,
        **pruning.get("schedule", {}),
    }
    return esper.Config(**given)


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )


def optimizer_of(model: nn.Module, kind: str) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return torch.optim.AdamW(model.parameters(), 1e-2)


class Training:
    """One process's share of a run: built freshly each time, continued from wherever the run directory is."""

    build: Callable[[], nn.Module] = staticmethod(small_network)
    length: ClassVar[Mapping[str, Any]] = {"epochs": EPOCHS}
    metric: ClassVar[str | None] = None

    def __init__(self, run_dir: Path, kind: str = "adamw", **changes: Any) -> None:
        torch.set_num_threads(1)
        self.model = self.build()
        self.optimizer = optimizer_of(self.model, kind)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 2 * EPOCHS)
        self.loss = nn.CrossEntropyLoss()
        self.train_data, self.held_out = examples(192, 0), examples(192, 1)
        self.session: Session = esper.attach(
            self.model,
            self.optimizer,
            loss=self.loss,
            sample=(self.train_data[0][:16], self.train_data[1][:16]),
            probe=[self.held_out],
            metric=self.metric,
            run_dir=run_dir,
            config=settings(**changes),
            **self.length,
            scheduler=self.scheduler,
            companions=self.companions(),
            blueprints=self.blueprints(),
            policy=self.policy(),
            resume=True,
        )

    def companions(self) -> GivenCompanions:
        """What holds a copy of the network."""
        return ()

    def blueprints(self) -> Mapping[str, Callable[..., nn.Module]]:
        """What seeds can be beside those that everybody has."""
        return {}

    def policy(self) -> Policy | None:
        """What decides about growing; None: the settings do."""
        return None

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = self.train_data
        for index in torch.randperm(len(targets)).split(32):
            yield inputs[index], targets[index]

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(self.model(inputs), targets)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def train_epoch(self) -> float:
        loss = sum(self.step(*batch) for batch in self.batches())
        self.scheduler.step()
        return loss

    def accuracy(self) -> float:
        inputs, targets = self.held_out
        self.model.eval()
        with torch.no_grad():
            share = float((self.model(inputs).argmax(1) == targets).float().mean())
        self.model.train()
        return share

    def epoch(self, metric: Callable[[float], float] = float) -> None:
        """Trains one epoch and ends it with `metric(accuracy)`."""
        loss = self.train_epoch()
        self.session.end_epoch(accuracy=metric(self.accuracy()), loss=loss)

    def fall(self, metric: float = 0.3) -> None:
        """Ends two epochs with so bad a metric: one alone can have reasons of its own."""
        for _ in range(2):
            self.epoch(lambda _: metric)

    def until_masked(self) -> None:
        """Ends epochs until units are masked."""
        self.until(lambda: self.session.parts.network.masks.num_masked > 0)

    def until(self, done: Callable[[], bool], metric: float = 0.5) -> None:
        """Ends epochs with one metric until `done`."""
        for _ in range(EPOCHS):
            if done():
                return
            self.epoch(lambda _: metric)
        assert done(), self.session.log

    def decision(self) -> CycleEnd:
        """Waits for the cycle under way and takes its end out of the session's hands."""
        end = self.session.parts.runner.collect(60.0)
        assert end is not None
        return end

    def marks(self) -> list[str]:
        return [mark.kind for mark in self.session.log.marks]

    def state(self) -> dict[str, Any]:
        network = self.session.parts.network
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "keep": network.masks.keep,
            "originals": network.masks.originals(),
            "structure": network.state(),
            "tracker": self.session.parts.tracker.state(),
            "rng": torch.get_rng_state(),
            "counts": [self.session.step, self.session.epoch],
        }

    def fingerprint(self) -> str:
        """Every bit of model, optimizer, scheduler, randomness, masks, cuts and tracker."""
        encoded = encode(self.state())
        digest = hashlib.sha256(repr(encoded.tree).encode())
        for name in sorted(encoded.tensors):
            digest.update(bytes(tensor_bytes(encoded.tensors[name])))
        return digest.hexdigest()


class Read(nn.Module):
    """Its own code reads the weight of one block, so that block cannot become nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.up, self.down = nn.Linear(8, 6), nn.Linear(6, 16), nn.Linear(16, 6)
        self.hidden, self.head = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.down(torch.relu(self.up(x)))
        logits: Tensor = self.head(torch.relu(self.hidden(x))) + 0 * self.down.weight.shape[0]
        return logits


class Reading(Training):
    build = staticmethod(Read)


class Held(Schedule):
    """Says nothing before it is let go, so that an analysis is as late as a test wants it."""

    def __init__(self, rules: Settings, epochs: int | None) -> None:
        super().__init__(rules, epochs)
        self.go = threading.Event()
        self.go.set()

    def allowed(self, *given: Any, **more: Any) -> Allowance:
        if threading.current_thread() is not threading.main_thread():  # which only asks whether to begin
            assert self.go.wait(60.0)
        return super().allowed(*given, **more)
