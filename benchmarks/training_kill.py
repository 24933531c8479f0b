"""kill -9 at random moments of a pruned training run: what is lost, what stays behind; beside it torch.save.

Usage: python benchmarks/training_kill.py [--kills 100] [--seed 0] [--json] [--no-peer]

A child process trains a small network under Esper with background saves; masks and cuts happen on the way.
It is killed at a random moment and starts itself again with `attach(..., resume=True)`, over and over; when a
run has ended, the next one begins in a new directory. Every start is checked: is it at or after the newest
epoch that was known to be durable, from a checkpoint that verifies in full, and is nothing half-written left?
After every kill the audit is verified; what the newest checkpoint remembers of masks and cuts must be in it.
The peer trains the same network and saves by `torch.save` in place, as most scripts do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

import esper

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.faults.trained import has_gaps, newest_epoch

EPOCHS = 8
PRELOAD = ["torch", "torch._dynamo", "torch.export", "esper.session.attach", "esper.session.finish"]
Train = Callable[[Path, Connection], None]


class Network:
    """An MLP of 1,500 parameters with dropout, AdamW and a scheduler on a rule that it has to learn."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-2)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 2 * EPOCHS)
        self.loss = nn.CrossEntropyLoss()
        self.inputs = torch.randn(384, 8, generator=torch.Generator().manual_seed(1))
        self.targets = self.inputs[:, :4].abs().argmax(1)

    def epoch(self) -> float:
        for index in torch.randperm(256).split(32):
            self.optimizer.zero_grad()
            self.loss(self.model(self.inputs[index]), self.targets[index]).backward()
            self.optimizer.step()
        self.scheduler.step()
        self.model.eval()
        right = self.model(self.inputs[256:]).argmax(1) == self.targets[256:]
        self.model.train()
        return float(right.float().mean())


CONFIG: dict[str, Any] = {
    "pruning": {"target": {"flops": 0.4}, "schedule": {"start_epoch": 1, "end_epoch": 7}},
    "analysis": {"workers": 0, "min_optimizer_steps": 1, "calibration_samples": 32, "held_out_samples": 96},
    "validation": {"limits": {"channel": 0.2}, "min_retention": 0.5},
    "importance": {"stride": 1, "min_importance_samples": 0, "min_sampled_steps": 1},
}


def train_with_esper(run_dir: Path, told: Connection) -> None:
    """Resumes or starts, says so, and trains until it is killed or is done; tells every durable epoch."""
    network = Network()
    session = esper.attach(
        network.model,
        network.optimizer,
        loss=network.loss,
        sample=(network.inputs[:16], network.targets[:16]),
        probe=[(network.inputs[256:], network.targets[256:])],
        run_dir=run_dir,
        config=esper.Config(**CONFIG),
        epochs=EPOCHS,
        scheduler=network.scheduler,
        resume=True,
    )
    told.send({"resumed": session.epoch, "left": debris(run_dir), "cuts": len(session.parts.network.changes)})
    while session.epoch < EPOCHS:
        session.end_epoch(accuracy=network.epoch())
        saved = session.parts.saving.newest
        told.send({"durable": 0 if saved is None else saved.epoch})
    session.finish(latency=False)
    told.send({"durable": EPOCHS, "finished": True})


def train_with_torch_save(run_dir: Path, told: Connection) -> None:
    """The same training without pruning, saved by `torch.save` in place."""
    network, epoch, lost = Network(), 0, False
    run_dir.mkdir(exist_ok=True)
    path = run_dir / "checkpoint.pt"
    try:
        if path.exists():
            state = torch.load(path, weights_only=True)  # noqa: TID251 (the peer's own way of loading)
            network.model.load_state_dict(state["model"])
            network.optimizer.load_state_dict(state["optimizer"])
            epoch = state["epoch"]
    except (RuntimeError, EOFError, OSError, ValueError):
        path.unlink()
        lost = True
    told.send({"resumed": epoch, "left": [], "cuts": 0, "lost": lost})
    while True:  # a run without end, so that every kill meets training and saving
        network.epoch()
        epoch += 1
        model, optimizer = network.model.state_dict(), network.optimizer.state_dict()
        torch.save({"model": model, "optimizer": optimizer, "epoch": epoch}, path)
        told.send({"durable": epoch})


def debris(run_dir: Path) -> list[str]:
    """What an interrupted writer had left and the start did not remove."""
    mine = f"-{os.getpid()}"
    found = (path.name for path in run_dir.rglob(".*") if path.name.startswith((".tmp-", ".del-")))
    return [name for name in found if not name.endswith(mine)]


@dataclass
class Tally:
    """What a campaign of kills did."""

    kills: int = 0
    during_start: int = 0
    during_a_save: int = 0
    lost: int = 0
    """A start found nothing to load, or something older than what had been acknowledged as durable."""
    unverified: int = 0
    """After a kill the newest checkpoint did not verify and none before it did either."""
    debris: int = 0
    untold: int = 0
    """After a kill the audit did not verify, or lacked something that a checkpoint remembers."""
    resumed: int = 0
    resumed_after_a_cut: int = 0
    finished_runs: int = 0
    seconds: float = 0.0


def campaign(train: Train, folder: Path, kills: int, rng: random.Random, longest_seconds: float) -> Tally:
    """Starts, kills and starts again; every start is checked against what was acknowledged before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    tally, durable, run_dir = Tally(), 0, folder / "run-0"
    begun = time.monotonic()
    while tally.kills < kills:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=train, args=(run_dir, there), daemon=True)
        child.start()
        there.close()
        if rng.random() < 0.8:  # mostly training is hit, else the start
            here.poll(60)
        child.join(rng.uniform(0.01, longest_seconds))  # the random moment
        if child.pid is not None and child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        messages = drain(here)
        durable = _check_start(tally, messages, durable)
        durable = max([durable, *(m["durable"] for m in messages if "durable" in m)])
        if any("finished" in message for message in messages):
            tally.finished_runs += 1
            shutil.rmtree(run_dir)
            run_dir, durable = folder / f"run-{tally.finished_runs}", 0
            continue
        tally.kills += 1
        tally.during_start += not messages
        tally.during_a_save += any(run_dir.glob("checkpoints/**/.tmp-*"))
        if train is train_with_esper:
            tally.unverified += durable > 0 and newest_epoch(run_dir) < durable
            tally.untold += has_gaps(run_dir)
    tally.seconds = time.monotonic() - begun
    return tally


def _check_start(tally: Tally, messages: list[dict[str, Any]], durable: int) -> int:
    """Counts what a start found; returns the epoch it went on from, so that each loss counts once."""
    for start in (message for message in messages if "resumed" in message):
        tally.lost += start.get("lost", False) or start["resumed"] < durable
        tally.debris += len(start["left"])
        tally.resumed += start["resumed"] > 0
        tally.resumed_after_a_cut += start["cuts"] > 0
        durable = start["resumed"]
    return durable


def drain(here: Connection) -> list[dict[str, Any]]:
    messages = []
    try:
        while True:
            messages.append(here.recv())
    except (EOFError, OSError):  # the child is gone, perhaps in the middle of a message
        return messages


def main() -> None:
    parser = argparse.ArgumentParser(description="kill -9 a pruned training run with background saves")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-peer", action="store_true", help="leave torch.save out")
    options = parser.parse_args()
    rng, tallies = random.Random(options.seed), {}
    with tempfile.TemporaryDirectory() as folder:
        ours = tallies["esper"] = campaign(train_with_esper, Path(folder), options.kills, rng, 1.2)
    if not options.no_peer:
        with tempfile.TemporaryDirectory() as folder:
            peer = campaign(train_with_torch_save, Path(folder), options.kills, rng, 0.3)
            tallies["torch.save in place"] = peer
    if options.json:
        print(json.dumps({name: asdict(tally) for name, tally in tallies.items()}))
    else:
        report(tallies)
    sys.exit(bool(ours.lost or ours.unverified or ours.debris or ours.untold))


def report(tallies: dict[str, Tally]) -> None:
    columns = list(asdict(Tally()))
    print(f"{'':22}" + "".join(f"{name:>22}" for name in [*tallies, "target"]))
    for column in columns:
        numbers = [getattr(tally, column) for tally in tallies.values()]
        target = "0" if column in ("lost", "unverified", "debris", "untold") else "-"
        row = "".join(f"{number:22.4g}" for number in numbers)
        print(f"{column.replace('_', ' '):22}{row}{target:>22}")


if __name__ == "__main__":
    main()
