"""Measures what a student saves whose activations are computed again in the backward pass, and what it costs.

    python benchmarks/recomputing.py         # about a minute on one core

A step of one network with all activations kept, computed again by `esper.tolaria.Recomputed` in a row and in
a list, and by torch's `checkpoint_sequential`. Times are the shortest of steps that take turns; peaks are
measured each in a process of its own. `benchmarks/teaching.py` prints the same table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint_sequential

from esper.elesh import PeakMemory
from esper.tolaria import Recomputed

LAYERS, FEATURES, TOKENS = 8, 256, (16, 64)
SEGMENTS = 4


class Student(nn.Module):
    """Eight transformer layers in a row, or in a list that its own code goes through."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [
            nn.TransformerEncoderLayer(FEATURES, 4, 4 * FEATURES, 0.1, "gelu", batch_first=True)
            for _ in range(LAYERS)
        ]
        self.kind = kind
        self.layers = nn.ModuleList(layers) if kind == LISTED else nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, 10)
        self.context: AbstractContextManager[None] = nullcontext()
        if kind in (ROWED, LISTED):
            self.context = Recomputed(self, SEGMENTS)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == SEQUENTIAL:
            x = checkpoint_sequential(self.layers, SEGMENTS, x, use_reentrant=False)
        elif self.kind == LISTED:
            for layer in self.layers:
                x = layer(x)
        else:
            x = self.layers(x)
        answer: Tensor = self.head(x.mean(1))
        return answer

    def step(self, samples: int = TOKENS[0]) -> None:
        """The gradients of a step that does not move it."""
        torch.manual_seed(1)
        x, y = torch.randn(samples, TOKENS[1], FEATURES), torch.arange(samples) % 10
        self.zero_grad(set_to_none=False)
        with self.context:
            output = self(x)
        F.cross_entropy(output, y).backward()

    def gradients(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])


KEPT = "kept"
ROWED = f"computed again, {SEGMENTS} segments of a row"
LISTED = f"computed again, {LAYERS} blocks of a list"
SEQUENTIAL = f"peer: torch's checkpoint_sequential, {SEGMENTS} segments"


def student() -> None:
    tokens = " x ".join(map(str, TOKENS))
    print(
        f"\n## Memory of a student: a step of {LAYERS} transformer layers of {FEATURES} features, "
        f"{tokens} tokens\n"
    )
    students = {kind: Student(kind) for kind in (KEPT, ROWED, LISTED, SEQUENTIAL)}
    times: dict[str, list[float]] = {kind: [] for kind in students}
    for _ in range(6):
        for kind, one in students.items():
            times[kind].append(timed(one.step))
    plain = students[KEPT].gradients()
    print(
        "| activations | peak over rest, MB | step, ms | times the plain one | gradients |\n"
        "|---|---|---|---|---|"
    )
    for kind, one in students.items():
        alike = "the same bits" if torch.equal(plain, one.gradients()) else "**differ**"
        ms = min(times[kind])
        shown = f"{in_process(__file__, '--student', kind)} | {ms:.0f} | {ms / min(times[KEPT]):.2f}"
        print(f"| {kind} | {shown} | {alike} |", flush=True)


def measure_student(kind: str) -> None:
    one = Student(kind)
    one.step(1)  # gradients are there, and what is made once
    peak = PeakMemory()
    rest = peak.read()
    one.step()
    print(f"{(peak.read() - rest) / 1e6:.0f}")


def in_process(script: str, *arguments: str) -> str:
    """A row that is measured in a process of its own."""
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    begun = time.perf_counter()
    work()
    return (time.perf_counter() - begun) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--student", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.student:
        measure_student(arguments.student)
    else:
        student()


if __name__ == "__main__":
    main()
