"""Measures what making seeds in a worker saves the training process, and what compiles while seeds grow.

    python benchmarks/kernels.py            # about two minutes on one core

Rows: (1) how long germination holds training up: with everything made in the training process, by a worker
that is asked when the seed is wanted, and by one that was asked before; (2) verifying and loading a kernel,
and a kernel from memory; (3) programs that `torch.compile` makes while 16 seeds go through all of their
stages, where the blocks of a network are compiled, and for two seeds where it is compiled as a whole.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

import esper
from esper.checkpoint import CheckpointStore, SealedFolder, open_key_ring
from esper.kasmina.seeds import Kernels
from esper.nissa import ListSink
from esper.tezzeret import PRELOAD, Kernel, KernelOrder, KernelSettings, KernelShelf, Tezzeret
from esper.workers import LocalPool

REPEATS = 7
PAUSE_SECONDS = 0.5
"""Before each germination, whichever way: a process that has slept begins with cold caches."""
SLOTS = 16
SIZES = ((16, 16), (512, 2048), (1024, 2048))
"""Features of a network, and of the inner layer of its seeds."""
LENIENT: dict[str, Any] = {
    "significance": 1 - 1e-9,
    "patience_epochs": 3,
    "max_spread": 1e9,
    "max_drift": 1e9,
    "max_shift": 1e9,
    "max_latency": 1e9,
    "max_parameters": 1e9,
    "train_steps": 2,
    "ramp_steps": 2,
    "shadow_steps": 1,
    "probation_epochs": 1,
    "counterfactual_every": 1,
    "embargo_epochs": 99,
    "check_every": 999,
}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.map(x))


class Network(nn.Module):
    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        answer: Tensor = self.head(x)
        return answer


class Run:
    """A network and its growth."""

    def __init__(self, width: int, blocks: int, kernels: Kernels | None, *, compiled: str = "") -> None:
        torch.manual_seed(0)
        self.x = torch.randn(32, width)
        self.y = torch.arange(32) % 3
        self.model = Network(width, blocks)
        self.call: nn.Module = self.model
        if compiled == "whole":
            self.call = torch.compile(self.model, backend="aot_eager")  # type: ignore[assignment]
        if compiled == "blocks":
            for block in self.model.blocks:
                block.compile(backend="aot_eager")
        self.optimizer = torch.optim.SGD(self.model.parameters(), 1e-3)
        self.growth = esper.Growth(
            self.call,
            self.optimizer,
            loss=F.cross_entropy,
            probe=[(self.x, self.y)],
            settings=LENIENT,
            sink=ListSink(),
            kernels=kernels,
        )

    def epoch(self, steps: int = 2) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.growth.loss(self.call(self.x), self.y, self.x).backward()
            self.optimizer.step()
        self.growth.end_epoch()


def timed(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begun)


def stalls(folder: Path, pool: LocalPool, width: int, inner: int) -> None:
    """One row: germination three ways, loading, a hit."""
    ring = open_key_ring(folder, create=True)
    with CheckpointStore(folder, keyring=ring) as store:
        sealed = SealedFolder(folder / "kernels", ring, store.identity)
    settings = KernelSettings()
    shelf = KernelShelf(sealed, settings.cache_kernels, settings.cache_bytes)
    source = Tezzeret(shelf, lambda: pool, settings, pool)
    times: dict[str, list[float]] = {"here": [], "asked then": [], "asked before": [], "load": [], "hit": []}
    runs = {
        way: Run(width, 2 * REPEATS, None if way == "here" else Kernels(source, settings, is_apart=True))
        for way in ("here", "asked then", "asked before")
    }
    for number in range(REPEATS):
        for way, run in runs.items():
            # Another place is another kernel: neither finds one of the other on the shelf.
            path = f"blocks.{number + REPEATS * (way == 'asked before')}"
            if way == "asked before":
                before = set((folder / "kernels").glob("kernel-*"))
                run.growth.prepare([path], "mlp", width=inner)
                while set((folder / "kernels").glob("kernel-*")) <= before:
                    time.sleep(0.05)
            time.sleep(PAUSE_SECONDS)  # by then a kernel that was asked for before is verified
            times[way].append(timed(lambda: run.growth.germinate(path, "mlp", width=inner)))  # noqa: B023
    for run in runs.values():
        run.growth.detach()
    order = KernelOrder("slot", 1, "mlp", "name:mlp", {"width": inner}, (32, width), number=1)
    kernels = Kernels(source, settings, is_apart=True)
    kernel = kernels.get(order, 0, print)
    assert isinstance(kernel, Kernel), kernel
    for _ in range(REPEATS):
        times["load"].append(timed(lambda: source.fetch(order)))
        times["hit"].append(timed(lambda: kernels.get(order, 0, print)))
    shown = " | ".join(f"{statistics.median(values):,.3f}" for values in times.values())
    stall, before_ms = (statistics.median(times[way]) for way in ("asked before", "here"))
    verdict = "met" if stall <= before_ms else "MISSED"
    print(f"| {width} x {inner} ({kernel.size_bytes / 1e6:,.3f} MB) | {shown} | {verdict} |", flush=True)


def programs(compiled: str, seeds: int) -> tuple[int, int]:
    """Programs that seeds have caused on their way, and how many of these seeds are a part of the network."""
    torch.compiler.reset()
    counters.clear()
    run = Run(8, SLOTS, None, compiled=compiled)
    run.epoch()
    before = counters["stats"]["unique_graphs"]
    for number in range(seeds):
        run.growth.germinate(f"blocks.{number}", "low_rank", rank=1, lr=1e-5)
        if compiled == "whole":
            for _ in range(8):
                run.epoch()
    for _ in range(8):
        run.epoch()
    parts = sum(slot.stage.name == "FOSSILIZED" for slot in run.growth.slots.values())
    run.growth.detach()
    return counters["stats"]["unique_graphs"] - before, parts


def main() -> None:
    torch.set_num_threads(1)
    pool = LocalPool(1, PRELOAD)
    print(f"torch {torch.__version__}, {sys.version.split()[0]}; median of {REPEATS}, milliseconds\n")
    print("Germination holds training up for so long; target: asked before, for no longer than made here.\n")
    head = ("features x inner", "made here", "asked then", "asked before", "load", "from memory", "target")
    print(f"| {' | '.join(head)} |")
    print("|---|---|---|---|---|---|---|")
    for number, (width, inner) in enumerate(SIZES):
        with tempfile.TemporaryDirectory() as folder:
            if not number:  # the worker imports what it needs
                stalls_of_nobody(Path(folder), pool)
        with tempfile.TemporaryDirectory() as folder:
            stalls(Path(folder), pool, width, inner)
    pool.close()
    print("\n| compiled | seeds | parts in the end | programs by seeds | target |\n|---|---|---|---|---|")
    for compiled, seeds in (("blocks", SLOTS), ("whole", 2)):
        count, parts = programs(compiled, seeds)
        goal = seeds if compiled == "whole" else 1
        verdict = "met" if count <= goal else "MISSED"
        print(f"| {compiled} | {seeds} | {parts} | {count} | at most {goal}: {verdict} |")


def stalls_of_nobody(folder: Path, pool: LocalPool) -> None:
    """One kernel that is not counted."""
    ring = open_key_ring(folder, create=True)
    with CheckpointStore(folder, keyring=ring) as store:
        sealed = SealedFolder(folder / "kernels", ring, store.identity)
    source = Tezzeret(KernelShelf(sealed, 9, 1 << 30), lambda: pool, KernelSettings(), pool)
    source.fetch(KernelOrder("slot", 1, "mlp", "name:mlp", {}, (4, 4), number=1))


if __name__ == "__main__":
    main()
