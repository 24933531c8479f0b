"""The main job on real data: a training run that ends with a smaller network, beside its uncut twin."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

import esper
from esper.cli.demo.digits import Digits, Split, load_digits
from esper.cli.demo.resnet8 import ResNet8
from esper.errors import ConfigError
from esper.report import EpochRow, RunReport, write_report

BATCH = 64
PEAK_LEARNING_RATE = 2e-3
TEST_METRIC = "test accuracy"

Told = Callable[[str, int, float], None]
"""Is told after every epoch: the name of the run, the epoch, and the accuracy on the test images."""


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """Everything that both runs share, so that they differ in nothing but Esper."""

    digits: Digits
    epochs: int
    seed: int

    def start(self) -> tuple[nn.Module, Optimizer, OneCycleLR]:
        """A fresh network with its optimizer and learning rates."""
        torch.manual_seed(self.seed)
        model = ResNet8()
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
        steps = self.epochs * -(-len(self.digits.train) // BATCH)
        return model, optimizer, OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=0.1)

    def train(self, epoch: int, model: nn.Module, optimizer: Optimizer, scheduler: OneCycleLR) -> None:
        """One epoch; the order of the images depends on seed and epoch alone."""
        generator = torch.Generator().manual_seed(1_000 * self.seed + epoch)
        order = torch.randperm(len(self.digits.train), generator=generator)
        model.train()
        for images, labels in self.digits.train.batches(BATCH, order):
            optimizer.zero_grad()
            smoothed_cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()


def smoothed_cross_entropy(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Smoothed labels keep the loss, and so the accuracy of single epochs, from jumping."""
    return F.cross_entropy(scores, labels, label_smoothing=0.1)


def free_folder(parent: Path) -> Path:
    """The first of `demo`, `demo-2`, `demo-3` ... that is not there yet."""
    numbers = itertools.count(2)
    folder = parent / "demo"
    while folder.exists():
        folder = parent / f"demo-{next(numbers)}"
    return folder


def refuse_used(folder: Path) -> None:
    """Refuses a folder that holds a run, before any work.

    Raises:
        ConfigError: it does.
    """
    if (folder / "checkpoints").exists():
        raise ConfigError(
            f"{folder} holds a run already. Choose another folder with --out, or leave --out away."
        )


def accuracy(model: nn.Module, split: Split) -> float:
    """Share of the images that the network names correctly, 0..1."""
    model.eval()
    with torch.inference_mode():
        hits = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in split.batches(250))
    return hits / len(split)


def run_demo(folder: Path, *, epochs: int, seed: int, flops: float, told: Told) -> RunReport:
    """Trains the twin and the pruned network, and writes `report.html` and `report.json` into the run.

    Decisions rest on the 500 probe images; the 1,000 test images judge the result and nothing else.

    Args:
        folder: the run directory.
        epochs: epochs of both runs.
        seed: of the split, the weights and the order of the images.
        flops: share of the FLOPs to remove.
        told: hears of every epoch.

    Raises:
        ConfigError: the folder holds a run already, or the digits are not installed.
    """
    refuse_used(folder)
    recipe = Recipe(load_digits(seed), epochs, seed)
    twin, plain_seconds = _train_twin(recipe, told)
    report = _train_with_esper(recipe, folder, flops, told)
    notes = (
        "Twin and run share seed, order of images, epochs and learning rates; they differ in Esper alone.",
        "Decisions rest on 500 probe images. Curve and result show 1,000 test images that no decision saw.",
        _times(plain_seconds, report),
    )
    report = dataclasses.replace(
        report,
        title="ResNet-8 on 5,000 handwritten digits",
        metric=TEST_METRIC,
        twin_epochs=tuple(_uncut(row, report) for row in twin),
        quality_before=twin[-1].metrics[TEST_METRIC],
        environment={**report.environment, "seed": str(seed)},
        notes=(*report.notes, *notes),
    )
    write_report(report, folder)
    return report


def _times(plain_seconds: float, report: RunReport) -> str:
    seconds = report.overhead.training_seconds if report.overhead else None
    if seconds is None:
        return f"The twin trained for {plain_seconds:.1f} s; the run with Esper was not timed."
    return (
        f"The twin trained for {plain_seconds:.1f} s, the run with Esper for {seconds:.1f} s "
        f"({seconds / plain_seconds:.2f} times as long), attaching, saving, waiting and cutting included."
    )


def _uncut(row: EpochRow, report: RunReport) -> EpochRow:
    return dataclasses.replace(row, flops=report.flops_before, parameters=report.parameters_before)


def _train_twin(recipe: Recipe, told: Told) -> tuple[list[EpochRow], float]:
    model, optimizer, scheduler = recipe.start()
    rows, started = [], time.perf_counter()
    for epoch in range(1, recipe.epochs + 1):
        begun = time.perf_counter()
        recipe.train(epoch, model, optimizer, scheduler)
        metrics = {
            "accuracy": accuracy(model, recipe.digits.probe),
            TEST_METRIC: accuracy(model, recipe.digits.test),
        }
        step, seconds = scheduler.last_epoch, time.perf_counter() - begun
        rows.append(EpochRow(epoch, step, metrics, flops=0.0, parameters=0, masked_units=0, seconds=seconds))
        told("uncut twin", epoch, metrics[TEST_METRIC])
    return rows, time.perf_counter() - started


def _train_with_esper(recipe: Recipe, run_dir: Path, flops: float, told: Told) -> RunReport:
    model, optimizer, scheduler = recipe.start()
    digits = recipe.digits
    session = esper.attach(
        model,
        optimizer,
        loss=smoothed_cross_entropy,
        sample=(digits.train.images[:BATCH], digits.train.labels[:BATCH]),
        probe=digits.probe.batches(100),
        metric="accuracy",
        run_dir=run_dir,
        # A target, and widths in multiples of eight: without them as many FLOPs go, and less of the time.
        config={"pruning": {"target": {"flops": flops}, "plan": {"round_to": 8}}},
        epochs=recipe.epochs,
        scheduler=scheduler,
    )
    for epoch in range(1, recipe.epochs + 1):
        recipe.train(epoch, model, optimizer, scheduler)
        tested = accuracy(model, digits.test)
        session.end_epoch(accuracy=accuracy(model, digits.probe), **{TEST_METRIC: tested})
        told("with Esper", epoch, tested)
    result = session.finish()
    report: RunReport = result.report
    return dataclasses.replace(report, quality_after=accuracy(result.model, digits.test))
