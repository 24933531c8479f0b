"""One rank of trainings under Esper, in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import esper
from esper.errors import EsperError
from esper.session.companions import GivenCompanions
from esper.session.session import Session
from esper.tamiyo import Command, SystemState

RANKS, EPOCHS, STEPS = 2, 5, 4
"""Processes; epochs of a run; optimizer steps of an epoch."""
PIXELS, NUMBERS = load_digits(return_X_y=True)
X, Y = torch.tensor(PIXELS / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(NUMBERS)


def settings(**pruning: Any) -> dict[str, Any]:
    """Removes half of the FLOPs from epoch 1 to 4, analyzed in this process, the same in every run."""
    return {
        "pruning": {
            "target": {"flops": 0.5},
            "schedule": {"start_epoch": 1, "end_epoch": 4, "max_sure_fraction": 0.0},
            "budget": {"compute_fraction": None},
            "cut": {"min_saved_fraction": 0.0},
            **pruning,
        },
        "analysis": {
            "workers": 0,
            "min_optimizer_steps": 1,
            "calibration_samples": 64,
            "held_out_samples": 128,
            "max_wait_seconds": 60.0,
        },
        "validation": {"limits": {"channel": 0.9}, "min_retention": 0.01},
        "checkpoint": {"keep_last": 10},
        "importance": {"stride": 1, "min_importance_samples": 0, "min_sampled_steps": 1},
    }


class Digits(nn.Module):
    """A network that draws random numbers, has running statistics, and can insist on its width."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1)),
        )
        self.head = nn.Linear(64, 10)
        self.insists = False

    def forward(self, x: Tensor) -> Tensor:
        seen = self.features(x)
        if self.insists:
            seen = seen.view(-1, 16, 2, 2)
        out: Tensor = self.head(seen.flatten(1))
        return out

    @property
    def widths(self) -> list[int]:
        return [layer.weight.shape[0] for layer in self.features if isinstance(layer, nn.Conv2d)]


class Training:
    """One rank's share of a run, built freshly each time."""

    def __init__(self, run_dir: Path, **more: Any) -> None:
        self.rank = dist.get_rank()
        self.network = Digits()
        self.model = DistributedDataParallel(self.network)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 5e-3)
        self.order = torch.Generator().manual_seed(self.rank)
        torch.manual_seed(self.rank)
        given = {
            "loss": nn.functional.cross_entropy,
            "sample": (X[:8], Y[:8]),
            "probe": [(X[1200:1392], Y[1200:1392])],
            "metric": "accuracy",
            "run_dir": run_dir,
            "config": settings(),
            "epochs": EPOCHS,
            "generators": {"order": self.order},
            "companions": self.companions(),
            "resume": True,
            **more,
        }
        self.session: Session = esper.attach(self.model, self.optimizer, **given)

    def companions(self) -> GivenCompanions:
        """What holds a copy of the network."""
        return ()

    def steps(self) -> Iterator[None]:
        """An epoch, step by step: every rank has pictures of its own."""
        mine = torch.arange(RANKS * STEPS * 32)[self.rank :: RANKS]
        for chosen in mine[torch.randperm(len(mine), generator=self.order)].split(32):
            self.optimizer.zero_grad()
            self.session.loss(self.model(X[chosen]), Y[chosen], X[chosen]).backward()
            self.optimizer.step()
            yield

    def epochs(self, until: int = EPOCHS) -> None:
        """What every rank measures is another number."""
        while self.session.epoch < until:
            [*self.steps()]
            self.session.end_epoch(accuracy=0.5 + self.rank / 10)

    def fingerprint(self, *, with_random: bool = True) -> list[float]:
        """Of weights, moments and random numbers."""
        states = self.optimizer.state_dict()["state"].values()
        values = [*self.model.parameters(), *(v for state in states for v in state.values())]
        drawn = [torch.rand(1), torch.rand(1, generator=self.order)] if with_random else []
        return [float(value.detach().double().sum()) for value in (*values, *drawn)]

    def apart(self) -> list[str]:
        """The names of the tensors that are not bit for bit those of the other rank."""
        found = []
        for name, mine in self.network.state_dict().items():
            both = torch.zeros((RANKS, *mine.shape), dtype=mine.dtype)
            both[self.rank] = mine
            dist.all_reduce(both)
            if not torch.equal(both[0], both[1]):
                found.append(name)
        return found


class Idle:
    """A policy that never wants anything."""

    def decide(self, _: SystemState) -> Sequence[Command]:
        return ()


def told_by(act: Callable[[], object]) -> str:
    """What is raised."""
    try:
        act()
    except (EsperError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def counted(run: Path) -> list[tuple[int, str, int]]:
    """What a run tells of the steps that were timed: epoch, region and how many."""
    lines = [json.loads(line) for line in (run / "telemetry.jsonl").read_text().splitlines()]
    facts = [(line["epoch"], line["facts"]) for line in lines if "spreads" in line["facts"]]
    steps = [(epoch, one["region"], one["spreads"].get("step_seconds")) for epoch, one in facts]
    return [(epoch, region, timed["count"]) for epoch, region, timed in steps if timed is not None]


def whole(directory: Path) -> dict[str, Any]:
    """A run from its beginning to its end, and a step after it."""
    training = Training(directory / "whole")
    before = sum(p.numel() for p in training.model.parameters())
    training.epochs()
    rows, fingerprint, widths = training.session.log.epochs, training.fingerprint(), training.network.widths
    result = training.session.finish(latency=False)
    apart = training.apart()
    next(training.steps())
    return {
        "fingerprint": fingerprint,
        "accuracies": [row.metrics["accuracy"] for row in rows],
        "step": rows[-1].step,
        "widths in training": widths,
        "apart": apart,
        "apart later": training.apart(),
        "reached": result.reached,
        "kinds": [mark.kind for mark in result.report.marks],
        "notes": list(result.report.notes),
        "parameters": (before, sum(p.numel() for p in training.model.parameters())),
        "parameters told": (result.report.parameters_before, result.report.parameters_after),
        "has page": result.report_path.exists(),
        "counted": counted(result.run_dir),
        "is same model": result.model is training.model,
    }


def resumed(directory: Path) -> dict[str, Any]:
    """The same run in two parts; at its end a cut that one rank cannot make."""
    first = Training(directory / "resumed")
    first.epochs(until=3)
    next(first.steps())
    first.session.detach()
    second = Training(directory / "resumed")
    at, widths = (second.session.epoch, second.session.step), second.network.widths
    second.epochs()
    fingerprint = second.fingerprint()
    widths_now, second.network.insists = second.network.widths, second.rank == 1
    result = second.session.finish(latency=False)
    return {
        "at": at,
        "widths": widths,
        "fingerprint": fingerprint,
        "is cut at last": second.network.widths != widths_now,
        "notes": list(result.report.notes),
        "apart": second.apart(),
        "reached": result.reached,
    }


def goes_wrong(directory: Path) -> dict[str, Any]:
    """Everything that can be refused within a run, and back over a cut."""
    training = Training(directory / "wrong")
    session, head, rank = training.session, training.network.head.weight, training.rank
    [*training.steps()]
    kept = head[3, 5].item()
    with torch.no_grad():
        head[3, 5] += rank * 1e-6
    told = {"other weights": told_by(lambda: session.end_epoch(accuracy=0.5))}
    with torch.no_grad():
        head[3, 5] = kept
    told |= {
        "other call": told_by(session.close_breaker if rank else lambda: session.end_epoch(accuracy=0.5)),
        "other metric": told_by(lambda: session.end_epoch(**{"accuracy" if rank else "mine": 0.5})),
        "no number": told_by(lambda: session.end_epoch(accuracy="high" if rank else 0.5)),  # type: ignore[arg-type]
        "step": told_by(lambda: session.end_step(accuracy=0.5)),
        "grow": told_by(lambda: session.grow("nowhere")),
        "checkpoint": told_by(lambda: session.rollback(12345)),
        "veto": told_by(lambda: session.veto("it looks odd")),
        "alone": ""
        if rank
        else told_by(lambda: session.parts.network.unmask(session.parts.network.masks.keep)),
        "right": told_by(lambda: session.end_epoch(accuracy=0.5)),
    }
    step, before, widths = session.step, training.fingerprint(with_random=False), training.network.widths
    training.epochs(until=3)
    cut_widths = training.network.widths
    session.rollback(step)
    is_back = before == training.fingerprint(with_random=False) and widths == training.network.widths
    apart, checkpoints = training.apart(), directory / "wrong" / "checkpoints"
    [*training.steps()]
    if rank == 0:
        checkpoints.rename(checkpoints.with_name("away"))
        checkpoints.touch()
    unsaved = told_by(lambda: session.end_epoch(accuracy=0.5))
    if rank == 0:
        checkpoints.unlink()
        checkpoints.with_name("away").rename(checkpoints)
    epochs = (session.epoch, len(session.log.epochs))
    training.epochs(until=3)
    session.detach()
    return {
        **told,
        "was cut": cut_widths < widths,
        "is back": is_back,
        "apart": apart,
        "unsaved": unsaved,
        "epochs": epochs,
    }


def vetoed(directory: Path) -> dict[str, Any]:
    """A mask is taken back on all ranks, and training goes on without it, taught on each."""
    training = Training(directory / "vetoed", teacher=Digits())
    session = training.session
    answer = training.network(X[:8])
    unseen = told_by(lambda: session.loss(answer, Y[:8]))
    lesson = float(session.loss(answer, Y[:8], X[:8]) - nn.functional.cross_entropy(answer, Y[:8]))
    training.epochs(until=2)
    masked, was_apart = session.removed_fraction, training.apart()
    session.veto("it looks odd")
    left, apart = session.removed_fraction, training.apart()
    next(training.steps())
    later = training.apart()
    if training.rank:
        session.teaching.change(None)
    alone = told_by(lambda: session.end_epoch(accuracy=0.5))
    session.detach()
    return {
        "masked": masked,
        "left": left,
        "apart": was_apart + apart + later,
        "unseen": unseen,
        "lesson": lesson,
        "alone": alone,
    }


def refused(directory: Path) -> dict[str, Any]:
    """What is refused before a run begins, by all ranks alike."""
    rank, sharded, run = dist.get_rank(), fully_shard(Digits()), directory / "no"
    outside = DistributedDataParallel(Digits())
    loss = nn.functional.cross_entropy

    def attached(model: Any, trained: Any = None) -> object:
        optimizer = torch.optim.SGD((trained or model).parameters(), 0.1)
        return esper.attach(model, optimizer, loss=loss, sample=(X[:8], Y[:8]), run_dir=run)

    asked: dict[str, Callable[[], object]] = {
        "another config": lambda: Training(run, config=settings(target={"flops": 0.4 + rank / 10})),
        "an unknown key": lambda: Training(run, config={"pruningg": 1} if rank else None),
        "an optimizer of another": lambda: attached(outside, Digits() if rank else outside),
        "its inside": lambda: attached(outside.module),
        "sharded": lambda: attached(sharded),
        "another policy": lambda: Training(run, policy=Idle() if rank else None),
        "another teacher": lambda: Training(run, teacher=Digits() if rank else nn.Linear(2, 2)),
        "a lesson": lambda: Training(run, config=settings(recovery={"distill": True})),
        "layers": lambda: Training(run, config=settings(schedule={"levels": ["channel", "layer"]})),
        "no run": lambda: esper.resume(run, outside, torch.optim.SGD(outside.parameters(), 0.1), loss=loss),
    }
    told = {name: told_by(act) for name, act in asked.items()}
    is_nothing_made, inside = not run.exists(), Digits()
    alone = esper.attach(
        inside,
        torch.optim.AdamW(inside.parameters()),
        loss=loss,
        sample=(X[:8], Y[:8]),
        run_dir=directory / f"alone-{rank}",
        generators={"order": torch.Generator()},
    )
    wrapper = DistributedDataParallel(inside)
    told["wrapped later"] = told_by(lambda: alone.end_epoch(accuracy=0.5))
    alone.detach()
    del wrapper
    together = Training(directory / "alone-0").session  # a run that one process has begun
    together.detach()
    parted: list[str] = []
    if rank == 0:  # and a run that two have begun, in one
        network = Digits()
        mine = torch.optim.AdamW(network.parameters())
        generators = {"order": torch.Generator()}
        one = esper.resume(directory / "wrong", network, mine, loss=loss, generators=generators)
        one.detach()
        parted = list(one.log.notes)
    return {**told, "is nothing made": is_nothing_made, "notes": list(together.log.notes), "parted": parted}


def by_steps_until_one_dies(directory: Path) -> dict[str, Any]:
    """Periods of steps; only rank 1 measures, one step before the end of each. Then it is gone."""
    training = Training(directory / "steps", epochs=None, steps=36, every_n_steps=6)
    session, ends = training.session, []
    while session.step < 12:
        for _ in training.steps():
            is_measured = training.rank == 1 and session.step % 6 == 5
            ends.append(session.end_step(**({"accuracy": 0.25} if is_measured else {})))
    rows = [(row.metrics, row.measured_step) for row in session.log.epochs]
    wrong = told_by(lambda: session.end_epoch(accuracy=0.5))
    told = told_by(session.rollback) if training.rank == 0 else ""
    session.detach()
    return {
        "ends": [n for n, is_end in enumerate(ends, 1) if is_end],
        "rows": rows,
        "wrong": wrong,
        "told": told,
    }


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "whole": whole,
    "resumed": resumed,
    "goes wrong": goes_wrong,
    "vetoed": vetoed,
    "refused": refused,
    "by steps until one dies": by_steps_until_one_dies,
}


def rank(number: int, port: int, directory: Path, told: Connection) -> None:
    """Runs all cases as one of the ranks, and tells the report of each."""
    run_cases(CASES, number, port, directory, told)


def run_cases(
    cases: Mapping[str, Callable[[Path], dict[str, Any]]],
    number: int,
    port: int,
    directory: Path,
    told: Connection,
) -> None:
    """Runs cases in turn as one of the ranks, which meet at a port."""
    torch.set_num_threads(1)
    address, patience = f"tcp://127.0.0.1:{port}", timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=address, rank=number, world_size=RANKS, timeout=patience)
    for case, run in cases.items():
        told.send((case, run(directory)))
    told.close()
    os._exit(0)  # the group is broken by now: one has died in it
