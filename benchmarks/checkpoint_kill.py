"""kill -9 at random moments of a training run: what is lost, what is left behind, and beside it torch.save.

Usage: python benchmarks/checkpoint_kill.py [--kills 100] [--seed 0] [--json]

A child process trains a small network with background saves and tells each step whose save is durable. It
is killed at a random moment and started again, over and over; at the end the weights must equal those of a
run that was never killed. The peer saves the same state by `torch.save` in place, as most scripts do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from esper.checkpoint import (
    BackgroundSaver,
    CheckpointCatalog,
    CheckpointStore,
    capture_trainer,
    load_trainer,
    open_key_ring,
    restore_trainer,
)

WIDTH = 256
STEPS_PER_SAVE = 5


class Training:
    """An MLP with dropout and AdamW: 1.6 MB of state."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(WIDTH, WIDTH),
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
        self.step_number = 0

    def step(self) -> None:
        self.optimizer.zero_grad()
        x = torch.randn(4, WIDTH)
        (self.model(x) - x).square().mean().backward()
        self.optimizer.step()
        self.step_number += 1

    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().ravel() for p in self.model.parameters()])


def train_with_store(run_dir: Path, told: Connection) -> None:
    """Resumes, says so, and trains until it is killed; tells every durable step."""
    training = Training()
    with CheckpointStore(run_dir, keyring=open_key_ring(run_dir, create=True), model="mlp") as store:
        search = store.search()
        if search.found is not None:
            restore_trainer(load_trainer(search.found), training.model, training.optimizer)
            training.step_number = search.found.step
        left = [
            p.name for p in (run_dir / "checkpoints").rglob(".*") if p.name.startswith((".tmp-", ".del-"))
        ]
        told.send({"resumed": training.step_number, "swept": len(store.swept), "left": left})
        saver = BackgroundSaver(store)
        while True:
            for _ in range(STEPS_PER_SAVE):
                training.step()
            state = capture_trainer(training.model, training.optimizer, step=training.step_number, epoch=0)
            saver.submit(training.step_number, 0, state.files())
            if saver.last_saved is not None:
                told.send({"durable": saver.last_saved.step})


def train_with_torch_save(run_dir: Path, told: Connection) -> None:
    """The same training, saved by `torch.save` in place."""
    training = Training()
    path = run_dir / "checkpoint.pt"
    try:
        if path.exists():
            state = torch.load(path, weights_only=True)  # noqa: TID251 (the peer's own way of loading)
            training.model.load_state_dict(state["model"])
            training.optimizer.load_state_dict(state["optimizer"])
            training.step_number = state["step"]
    except (RuntimeError, EOFError, OSError, ValueError):
        path.unlink()
        told.send({"lost": True})
    told.send({"resumed": training.step_number, "swept": 0, "left": []})
    while True:
        for _ in range(STEPS_PER_SAVE):
            training.step()
        torch.save(
            {
                "model": training.model.state_dict(),
                "optimizer": training.optimizer.state_dict(),
                "step": training.step_number,
            },
            path,
        )
        told.send({"durable": training.step_number})


@dataclass
class Tally:
    """What a campaign of kills did."""

    kills: int = 0
    during_a_save: int = 0
    lost: int = 0
    """Nothing could be loaded although something had been saved."""
    acknowledged_but_lost: int = 0
    """Something older was resumed from than the newest save that was called durable."""
    debris: int = 0
    """Names that an interrupted save had left and the restart did not remove."""
    last_step: int = 0
    swept: int = 0
    equals_uninterrupted_run: bool | None = None
    seconds: float = 0.0


def campaign(target: Any, run_dir: Path, kills: int, rng: random.Random) -> Tally:
    """Starts, kills and starts again; every start is checked against what was acknowledged before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch._dynamo", "esper.checkpoint"])
    tally = Tally()
    durable = 0
    start = time.monotonic()
    while tally.kills < kills:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=target, args=(run_dir, there), daemon=True)
        child.start()
        there.close()
        resumed_at, lost = wait_for_resume(here)
        if resumed_at is not None:
            tally.swept += resumed_at["swept"]
            tally.debris += len(resumed_at["left"])
            tally.lost += lost or (durable > 0 and resumed_at["resumed"] == 0)
            tally.acknowledged_but_lost += 0 < resumed_at["resumed"] < durable
            durable = resumed_at["resumed"]
            time.sleep(rng.uniform(0, 0.25))  # the random moment
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        tally.during_a_save += any(run_dir.glob("checkpoints/.tmp-*"))
        durable = max([durable, *(message["durable"] for message in drain(here) if "durable" in message)])
        tally.kills += 1
    tally.last_step, tally.seconds = durable, time.monotonic() - start
    return tally


def wait_for_resume(here: Connection) -> tuple[dict[str, Any] | None, bool]:
    lost = False
    try:
        while "resumed" not in (message := here.recv()):
            lost = True
    except EOFError:
        return None, lost
    return message, lost


def drain(here: Connection) -> list[dict[str, Any]]:
    messages = []
    try:
        while True:
            messages.append(here.recv())
    except (EOFError, OSError):  # the child is gone, perhaps in the middle of a message
        return messages


def check_the_end(run_dir: Path, tally: Tally) -> None:
    """Compares what the killed run has become with a run that was never killed, bit for bit."""
    catalog = CheckpointCatalog(run_dir, open_key_ring(run_dir))
    latest = catalog.latest()
    if latest is None or latest.step < tally.last_step:
        tally.lost += 1
        return
    straight = Training()
    while straight.step_number < latest.step:
        straight.step()
    killed = Training()
    restore_trainer(load_trainer(latest), killed.model, killed.optimizer)
    tally.last_step = latest.step
    tally.equals_uninterrupted_run = torch.equal(straight.weights(), killed.weights())


def main() -> None:
    parser = argparse.ArgumentParser(description="kill -9 a training run with background saves")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-peer", action="store_true", help="leave torch.save out")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    tallies = {}
    with tempfile.TemporaryDirectory() as folder:
        ours = tallies["esper"] = campaign(train_with_store, Path(folder), options.kills, rng)
        check_the_end(Path(folder), ours)
    if not options.no_peer:
        with tempfile.TemporaryDirectory() as folder:
            tallies["torch.save in place"] = campaign(train_with_torch_save, Path(folder), options.kills, rng)
    if options.json:
        print(json.dumps({name: asdict(tally) for name, tally in tallies.items()}))
    else:
        report(tallies)
    sys.exit(
        bool(ours.lost or ours.acknowledged_but_lost or ours.debris or not ours.equals_uninterrupted_run)
    )


def report(tallies: dict[str, Tally]) -> None:
    columns = ("kills", "during_a_save", "lost", "acknowledged_but_lost", "debris", "swept", "last_step")
    print(f"{'':22}" + "".join(f"{column.replace('_', ' '):>23}" for column in columns))
    for name, tally in tallies.items():
        print(f"{name:22}" + "".join(f"{getattr(tally, column):23}" for column in columns))
    print(f"{'target':22}" + "".join(f"{'0' if c in columns[2:5] else '-':>23}" for c in columns))
    same = tallies["esper"].equals_uninterrupted_run
    print(f"final weights equal the run that was never killed, bit for bit: {'yes' if same else 'NO'}")


if __name__ == "__main__":
    main()
