"""One rank of trainings in which something grows, in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from esper.errors import CheckpointError
from esper.kasmina.seeds import Blueprint, GateResult
from esper.nissa import Event, ListSink, seed_events
from tests.kasmina.seeds.networks import LENIENT
from tests.session.ranks import Training, run_cases, settings, told_by

KEPT, CULLED = "features.3", "features.6"
LENGTH = 11
GROWING = {**LENIENT, "train_steps": 4, "ramp_steps": 6, "check_every": 5}
"""Gates open for nearly everything; an epoch has four steps."""


class Odd(nn.Module):
    """Adds nothing; in training it does something odd on one rank: fails, or writes into its host."""

    def __init__(self, kind: str, victim: Tensor) -> None:
        super().__init__()
        self.kind, self.victims = kind, [victim]
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and dist.get_rank() == 1:
            if self.kind == "fails":
                raise ValueError("I cannot")
            self.victims[0].add_(1)
        return x * self.weight


def silent(like: Tensor, width: int = 1) -> nn.Module:
    """Makes zeros of everything at birth."""
    last = nn.Conv2d(width, like.shape[1], 1, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(nn.Conv2d(like.shape[1], width, 1), last)


def not_made(like: Tensor) -> nn.Module:
    """Can be made on rank 0 only."""
    if dist.get_rank() == 1:
        raise ValueError("I miss something here")
    return silent(like)


def wider(like: Tensor) -> nn.Module:
    """Is another one on every rank."""
    return silent(like, 1 + dist.get_rank())


class Unwritten:
    """An audit that cannot hold what it is told."""

    def emit(self, event: Event) -> None:
        raise CheckpointError(f"There is no space for {type(event).__name__}.")


class Growing(Training):
    """Grows by a fixed plan, with an average beside it: what is done before which epoch."""

    def __init__(
        self, run_dir: Path, plan: dict[int, Callable[[Any], Any]], growing: Any = GROWING, **more: Any
    ) -> None:
        self.plan, self.done = plan, dict[int, Any]()
        config = {**settings(target=None), "growing": growing, "checkpoint": {"keep_last": 20}}
        odd: dict[str, Blueprint] = {"not made": not_made, "wider": wider}
        odd |= {kind: partial(self.odd, kind) for kind in ("fails", "meddles")}
        super().__init__(run_dir, **{"config": config, "epochs": LENGTH, "blueprints": odd, **more})

    def odd(self, kind: str, _: Tensor) -> nn.Module:
        counter = self.network.features[1].num_batches_tracked  # of no influence, and the host's
        assert isinstance(counter, Tensor)
        return Odd(kind, counter)

    def steps(self) -> Iterator[None]:
        epoch = self.session.epoch
        if epoch in self.plan and epoch not in self.done:
            self.done[epoch] = self.plan[epoch](self.session)
        for _ in super().steps():
            self.average.update_parameters(self.network)
            yield

    def companions(self) -> nn.Module:
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.8))
        return self.average

    def fingerprint(self, *, with_random: bool = True) -> list[float]:
        tracks, weights = self.session.growing.stand()
        seeds = [float(weight.detach().double().sum()) for weight in weights.values()]
        how_far = [float(track[key]) for track in tracks for key in ("stage", "position", "joined", "passes")]
        average = [float(value.detach().double().sum()) for value in self.average.parameters()]
        return [*seeds, *how_far, *average, *super().fingerprint(with_random=with_random)]

    def go(self, until: int) -> dict[int, list[float]]:
        """Trains on; a fingerprint after every epoch."""
        prints = {}
        while self.session.epoch < until:
            self.epochs(until=self.session.epoch + 1)
            prints[self.session.epoch] = self.fingerprint(with_random=False)
        return prints

    def stages(self) -> dict[str, str]:
        return {path: slot.stage.name for path, slot in self.session.growing.slots.items()}


def _grown(session: Any, path: str, **wish: Any) -> GateResult:
    result: GateResult = session.grow(path, "conv", width=4, **wish)
    return result


PLAN: dict[int, Callable[[Any], Any]] = {
    1: lambda session: _grown(session, KEPT),
    2: lambda session: _grown(session, CULLED, isolation="strict"),
    5: lambda session: session.growing.cull(CULLED),
}


def straight(directory: Path) -> dict[str, Any]:
    """One seed becomes a part of the network, another is culled; a copy is kept of every epoch's run."""
    training = Growing(directory / "straight", PLAN)
    before = sum(p.numel() for p in training.model.parameters())
    prints: dict[int, list[float]] = {}
    stages, weights, apart = {}, {}, list[str]()
    for epoch in range(1, LENGTH + 1):
        prints |= training.go(until=epoch)
        stages[epoch] = training.stages()
        grown = [p for name, p in training.network.named_parameters() if ".seed." in name]
        weights[epoch] = [float(p.detach().double().sum()) for p in grown]
        apart += [name for name in training.apart() if "running" not in name]
        if training.rank == 0:
            training.session.parts.saving.settle()
            no_lock = shutil.ignore_patterns(".writer.*")
            shutil.copytree(directory / "straight", directory / f"straight-{epoch}", ignore=no_lock)
    answers = {epoch: done.passed for epoch, done in training.done.items() if done is not None}
    result = training.session.finish(latency=False)
    return {
        "prints": prints,
        "stages": stages,
        "grown weights": weights,
        "apart": apart + training.apart(),
        "answers": answers,
        "before": before,
        "told": (result.report.parameters_before, result.report.parameters_after),
        "after": sum(p.numel() for p in training.model.parameters()),
        "in optimizer": len(training.optimizer.state),
    }


def resumed(directory: Path) -> dict[str, Any]:
    """On from the middle of each part of the way, and back over all of it."""
    prints = {}
    for epoch in (2, 4, 8):
        training = Growing(directory / f"straight-{epoch}", PLAN)
        training.done = {before: None for before in PLAN if before < epoch}
        prints[epoch] = training.go(until=epoch + 2)
        training.session.detach()
    training = Growing(directory / f"straight-{LENGTH}", PLAN)
    training.done = dict.fromkeys(PLAN)
    session = training.session
    session.rollback(session.log.epochs[3].step)  # one was a part of the network then
    back = training.fingerprint(with_random=False)
    later = training.go(until=5)
    session.detach()
    return {"prints": prints, "back": back, "later": later}


def isolated(directory: Path) -> dict[str, Any]:
    """What a host is that never had a seed, and one that had one which left again."""
    plans: dict[str, dict[int, Callable[[Any], Any]]] = {
        "without": {},
        "with": {1: lambda s: _grown(s, KEPT, isolation="strict"), 3: lambda s: s.growing.cull(KEPT)},
    }
    found: dict[str, list[list[float]]] = {}
    for name, plan in plans.items():
        training = Growing(directory / name, plan)
        found[name] = []
        while training.session.epoch < 4:
            training.epochs(until=training.session.epoch + 1)
            found[name].append(Training.fingerprint(training))  # of the host
        training.session.detach()
    return found


def odd(directory: Path) -> dict[str, Any]:
    """What one rank alone sees, all act on; what one calls alone none does."""
    told, growing = ListSink(), {**GROWING, "check_every": 1, "train_steps": 99}
    training = Growing(directory / "odd", {}, growing)
    session = training.session
    session.log.telling.sinks.append(told)
    refused = {
        "another place": told_by(lambda: session.grow(KEPT if training.rank else CULLED, "conv")),
        "no blueprint": told_by(lambda: session.grow(KEPT, "no such")),
        "no place": told_by(lambda: session.growing.try_out("nowhere.*", "conv")),
        "not made": told_by(lambda: session.grow(KEPT, "not made")),
        "made apart": told_by(lambda: session.grow(KEPT, "wider")),
    }
    places = session.growing.places("features.*")
    if training.rank == 0:
        session.log.telling.sinks.insert(0, Unwritten())
    unwritten = told_by(lambda: session.grow(KEPT, "conv"))
    if training.rank == 0:
        del session.log.telling.sinks[0]
    slots = training.stages()
    passed = (session.grow(KEPT, "fails").passed, session.grow(CULLED, "meddles").passed)
    training.epochs(until=1)
    stages, state = training.stages(), session.growing.breaker_state.name
    later = told_by(lambda: session.grow("features.7", "conv"))
    session.close_breaker()
    is_closed = session.growing.breaker_state.name
    session.detach()
    culled = [event.evidence for event in told.events if isinstance(event, seed_events.SeedCulled)]
    return {
        **refused,
        "unwritten": (unwritten, slots),
        "places": places,
        "passed": passed,
        "stages": stages,
        "breaker": (state, is_closed),
        "culled": culled,
        "later": later,
    }


def decided(directory: Path) -> dict[str, Any]:
    """A policy tries seeds out at several places, one stays, and the network that it makes is pruned."""
    strategy = {
        "policy": "periodic",
        "every_epochs": 1,
        "slots": "features.[36]",
        "blueprint": "conv",
        "max_tries": 1,
    }
    pruning = settings(target={"flops": 0.2}, schedule={"start_epoch": 6, "end_epoch": 10})
    config = {**pruning, "growing": GROWING, "strategy": strategy}
    training = Growing(directory / "decided", {}, config=config, epochs=12, blueprints=None)
    prints = training.go(until=12)
    stages = training.stages()
    result = training.session.finish(latency=False)
    return {
        "prints": prints,
        "stages": stages,
        "apart": training.apart(),
        "kinds": [mark.kind for mark in result.report.marks],
        "reached": result.reached,
    }


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "straight": straight,
    "resumed": resumed,
    "isolated": isolated,
    "odd": odd,
    "decided": decided,
}


def rank(number: int, port: int, directory: Path, told: Connection) -> None:
    """Runs all cases as one of the ranks, and tells the report of each."""
    run_cases(CASES, number, port, directory, told)
