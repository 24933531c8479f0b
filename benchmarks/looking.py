"""How long the look at the twin takes that the screen begins with, beside that of another commit.

    python benchmarks/looking.py [--against COMMIT] [--rounds 5]

Three networks, 256 samples, one thread. Printed is the processor time of one look: the median over processes
that take turns, each of which takes the best of three looks. The other commit is checked out beside this one
for as long as the benchmark runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent.parent
SAMPLES, LOOKS = 256, 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", default="1ac75c1", help="the commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--looks", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.looks:
        torch.set_num_threads(1)
        print(json.dumps({name: look(*make()) for name, make in NETWORKS.items()}))
        return
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        git("worktree", "add", "--detach", str(other), options.against)
        try:
            show(other, options.against, options.rounds)
        finally:
            git("worktree", "remove", "--force", str(other))


def show(other: Path, commit: str, rounds: int) -> None:
    seconds: dict[str, list[dict[str, float]]] = {"here": [], commit: []}
    for _ in range(rounds):
        for name, root in (("here", HERE), (commit, other)):
            seconds[name].append(in_process(root))
    print(f"{'network':14}{commit:>12}{'here':>12}{'times':>8}   milliseconds of CPU, {SAMPLES} samples")
    for network in NETWORKS:
        before, here = (
            statistics.median(row[network] for row in seconds[name]) * 1e3 for name in (commit, "here")
        )
        print(f"{network:14}{before:12.0f}{here:12.0f}{before / here:8.1f}")


def in_process(root: Path) -> dict[str, float]:
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--looks"]
    environment = {**os.environ, "PYTHONPATH": str(root / "src")}
    run = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    times: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return times


def git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(HERE), *arguments], check=True, capture_output=True)


def look(model: nn.Module, batches: list[Any]) -> float:
    """Seconds of processor time of the best of some looks."""
    from esper.anatomy.twin import Twin

    try:
        from esper.anatomy.graph import named_tensors, trace
        from esper.anatomy.units import anatomy_of
        from esper.elesh import look_at_twin
    except ImportError:  # the layout of earlier commits
        from esper.anatomy.inspection import anatomy_of  # type: ignore[import-not-found,no-redef]
        from esper.anatomy.trace import named_tensors, trace  # type: ignore[import-not-found,no-redef]

        from esper.importance import look_at_twin  # type: ignore[attr-defined,no-redef]
    traced = trace(model, batches[0], F.cross_entropy)
    twin, anatomy = Twin.of(traced), anatomy_of(traced, model)
    state = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
    times = []
    for _ in range(LOOKS):
        start = time.process_time()
        signals = look_at_twin(twin, anatomy, state, batches, samples=SAMPLES, with_frequency=True)
        times.append(time.process_time() - start)
        assert signals
    return min(times)


def convolutions() -> tuple[nn.Module, list[Any]]:
    def block(i: int, o: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

    torch.manual_seed(0)
    layers = [*block(3, 32, 1), *block(32, 64, 2), *block(64, 64, 1), *block(64, 128, 2)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return model.eval(), batches_of(torch.randn(SAMPLES, 3, 32, 32), torch.randint(10, (SAMPLES,)))


class Decoder(nn.Module):
    """A small transformer that reads a sequence and names one class."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 64)
        self.layers = nn.ModuleList(
            [nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0) for _ in range(2)]
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embed(x)
        for layer in self.layers:
            hidden = layer(hidden)
        out: Tensor = self.head(hidden.mean(1))
        return out


def transformer() -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    return Decoder().eval(), batches_of(torch.randint(64, (SAMPLES, 48)), torch.randint(10, (SAMPLES,)))


def perceptron() -> tuple[nn.Module, list[Any]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return model, batches_of(torch.randn(SAMPLES, 64), torch.randint(10, (SAMPLES,)))


def batches_of(x: Tensor, y: Tensor) -> list[Any]:
    return list(zip(x.split(16), y.split(16), strict=True))


NETWORKS = {"convolutions": convolutions, "transformer": transformer, "perceptron": perceptron}

if __name__ == "__main__":
    main()
