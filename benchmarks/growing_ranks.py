"""Measures what growing promises where several processes train one network by `DistributedDataParallel`.

    python benchmarks/growing_ranks.py            # about three minutes on two cores
    python benchmarks/growing_ranks.py --steps 1000

Rows: (1) host, optimizer and random state of every rank after a seed was trained apart, strictly blended in
and culled, against the run of as many ranks without it, bit for bit; (2) the seed of one rank against that of
the other while it is under way; (3) what a step with a seed that learns costs, of one without, in one process
and in two.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import esper
from growing import LENIENT, Bursting, Run, Tokens, network, perceptron

RANKS = 2
Case = tuple[str, Callable[[], nn.Module], str, str, bool]
CASES: tuple[Case, ...] = (
    ("perceptron", perceptron, "2", "mlp", False),
    ("convolutions, batch norm, dropout", network, "2", "conv", False),
    ("convolutions, batch norm, dropout", network, "2", "conv", True),
    ("transformer layer", Tokens, "block", "low_rank", False),
    ("convolutions, a seed that becomes infinite", network, "2", "bursting", False),
)


class Ranked(Run):
    """The same training as one of several ranks, in a session, each rank on data of its own."""

    def __init__(self, make: Callable[[], nn.Module], settings: dict[str, Any], place: Path) -> None:
        super().__init__(make)
        model = DistributedDataParallel(self.model) if dist.is_initialized() else self.model
        self.call = model
        rank = dist.get_rank() if dist.is_initialized() else 0
        self.drawn = torch.Generator().manual_seed(rank)
        self.session = esper.attach(
            model,
            self.optimizer,
            loss=F.cross_entropy,
            sample=(self.x[:8], self.y[:8]),
            probe=[(self.x[1000:1400], self.y[1000:1400])],
            run_dir=place,
            config={"growing": settings, "analysis": {"workers": 0}},
            blueprints={"bursting": lambda like: Bursting(like)},  # noqa: PLW0108  (a worker would refuse it)
        )
        torch.manual_seed(rank + 1)
        self.seconds: list[float] = []

    def train(self, steps: int) -> None:
        for _ in range(steps):
            chosen = torch.randint(0, 1000, (32,), generator=self.drawn)
            x, y = self.x[chosen], self.y[chosen]
            begun = time.perf_counter()
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                loss = self.session.loss(self.call(x), y, x)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.seconds.append(time.perf_counter() - begun)
            self.steps += 1

    def seed(self) -> list[float]:
        """Of the weights of its seeds."""
        return [float(weight.detach().double().sum()) for weight in self.session.growing.stand()[1].values()]


def trained(case: Case, steps: int, *, is_grown: bool) -> tuple[dict[str, Any], list[list[float]], str]:
    """Everything that a run leaves behind; its seed at three moments; how far that came."""
    _, make, path, kind, autocast = case
    settings = {**LENIENT, "isolation": "strict", "train_steps": steps // 3, "ramp_steps": steps}
    with tempfile.TemporaryDirectory() as place:
        run = Ranked(make, settings, Path(place) / f"run-{is_grown}")
        run.autocast, seeds, stage = autocast, [], ""
        if is_grown:
            run.session.grow(path, kind)
        for _ in range(2):
            run.train(steps // 2)
            seeds.append(run.seed())
            run.session.end_epoch()
        if is_grown:
            stage = run.session.growing.slots[path].stage.name
        if stage == "BLENDING":
            run.session.growing.cull(path)
        run.session.detach()
    return run.everything(), seeds, stage


def step_cost(steps: int) -> float:
    """The median step with a seed that learns, as a multiple of one without."""
    medians = []
    for is_grown in (False, True):
        with tempfile.TemporaryDirectory() as place:
            run = Ranked(network, {**LENIENT, "train_steps": 10**6}, Path(place) / "run")
            if is_grown:
                run.session.grow("2", "conv")
            run.train(steps)
            medians.append(statistics.median(run.seconds[steps // 5 :]))
            run.session.detach()
    return medians[1] / medians[0]


def rank(number: int, port: int, steps: int, told: Any) -> None:
    """All rows, as one rank."""
    torch.set_num_threads(1)
    logging.getLogger("esper").setLevel(logging.ERROR)
    address, patience = f"tcp://127.0.0.1:{port}", timedelta(minutes=5)
    dist.init_process_group("gloo", init_method=address, rank=number, world_size=RANKS, timeout=patience)
    for case in CASES:
        after, seeds, stage = trained(case, steps, is_grown=True)
        wanted, _, _ = trained(case, steps, is_grown=False)
        wrong = sum(not torch.equal(after[key], value) for key, value in wanted.items())
        told.send((wrong, len(wanted), seeds, stage))
    told.send(step_cost(max(steps // 4, 20)))
    told.close()
    dist.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    logging.getLogger("esper").setLevel(logging.ERROR)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context, running = multiprocessing.get_context("spawn"), []
    for number in range(RANKS):
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=rank, args=(number, port, steps, there))
        process.start()
        there.close()
        running.append((process, here))
    print(f"# Growing in {RANKS} processes: {steps} steps each, trained apart, strictly blended in, culled\n")
    print("| network | precision | tensors that differ, by rank | seeds of the ranks | it came to |")
    print("|---|---|---|---|---|")
    for name, _, _, _, autocast in CASES:
        found = [here.recv() for _, here in running]
        differ = ", ".join(f"{wrong} of {count}" for wrong, count, _, _ in found)
        alike = "the same" if found[0][2] == found[1][2] else "DIFFERENT"
        precision = "bfloat16" if autocast else "float32"
        print(f"| {name} | {precision} | {differ} | {alike} | {found[0][3]} |", flush=True)
    ratios = [here.recv() for _, here in running]
    for process, _ in running:
        process.join()
    print(
        f"\nA step with a seed that learns, of one without: {max(ratios):.2f} in {RANKS} processes, "
        f"{step_cost(max(steps // 4, 20)):.2f} in one."
    )


if __name__ == "__main__":
    main()
