"""Growing on real data: a network that is too narrow grows and is pruned, beside three that never grow."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

import esper
from esper.cli.demo.demo import BATCH, TEST_METRIC, Told, accuracy, refuse_used, smoothed_cross_entropy
from esper.cli.demo.digits import Digits, Split
from esper.kasmina.seeds import Slot
from esper.leyline import SeedLifecycleStage as Stage
from esper.report import ArmRow, RunReport, write_report
from esper.session import Session

NARROW, WIDEST = 4, 64
"""Channels of the network that grows, and the most that its wide twin may have."""
LEARNING_RATE = 3e-3
PRUNED = 0.2
"""Share of its FLOPs that the grown network is to lose afterwards."""
_NOT_GROWN = "the network in which nothing grew"
_PASSES = 3.0
"""FLOPs of a forward and a backward pass, in those of a forward pass."""


def network(width: int) -> nn.Sequential:
    """Three convolutions on pictures [samples, 1, 28, 28]."""
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()),
        *(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU()),
        *(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width)),
        *(nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)),
    )


class Training:
    """The training of one arm: the same data, order and learning rates, over as many epochs as it has."""

    def __init__(self, digits: Digits, width: int, epochs: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.digits, self.epochs, self.seed = digits, epochs, seed
        self.model = network(width)
        self.optimizer = AdamW(self.model.parameters(), LEARNING_RATE, weight_decay=1e-2)
        # Seeds that come late need a learning rate: it falls in the last fifth only.
        self.scheduler = LambdaLR(self.optimizer, lambda epoch: min(1.0, 5 * (1 - epoch / epochs)))

    def begin_again(self, epochs: int) -> int:
        """Goes on with the same optimizer for so many epochs; returns how many went before.

        The learning rate begins at a third of what it was, and falls to zero.
        """
        before, self.epochs = self.epochs, epochs
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] = LEARNING_RATE / 3
        self.scheduler = LambdaLR(self.optimizer, lambda epoch: 1 - epoch / epochs)
        return before

    def epoch(self, number: int, loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        """One epoch; the order of the images depends on seed and epoch alone."""
        generator = torch.Generator().manual_seed(1_000 * self.seed + number)
        order = torch.randperm(len(self.digits.train), generator=generator)
        self.model.train()
        for images, labels in self.digits.train.batches(BATCH, order):
            self.optimizer.zero_grad()
            loss(self.model(images), labels, images).backward()
            self.optimizer.step()
        self.scheduler.step()


def run_growing_demo(
    folder: Path, digits: Digits, *, epochs: int, seed: int, told: Told
) -> tuple[RunReport, str]:
    """Grows a narrow network, prunes it, trains three others beside it, and writes the report into the run.

    The others are the narrow network as long, the same for as many FLOPs, and, for as many FLOPs too, one
    that is born with the FLOPs that the grown one ends with; what comes to the same is trained once.
    Decisions rest on the probe images; the test images judge all of them and nothing else.

    Args:
        folder: the run directory; the pruning is a run of its own in it, `pruned`.
        digits: to train on, to decide by, and to judge by.
        epochs: of the network that grows; it is pruned over half as many.
        seed: of the weights and the order of the images.
        told: hears of every epoch.

    Returns:
        The report, and what came of the pruning, in words.

    Raises:
        ConfigError: the folder holds a run already.
    """
    refuse_used(folder)
    training = Training(digits, NARROW, epochs, seed)
    report, grown = _grow(training, folder, told)
    as_grown = _right(training.model, digits.test)
    pruned, said = _prune(training, grown, folder / "pruned", told)
    right = _right(training.model, digits.test)
    budget, as_long = pruned.spent[-1], len(pruned.spent)
    width = _width_of(pruned.flops, digits)
    twins = {(NARROW, as_long): "the narrow network, as long"}
    for channels, name in ((NARROW, "the narrow network"), (width, f"born {width} wide")):
        epochs = max(1, round(budget / _epoch_flops(channels, digits)))
        twins.setdefault((channels, epochs), f"{name}, as many FLOPs")  # where nothing has grown it is there
    arms = [pruned, _beside(right, grown, as_grown)]
    for (channels, epochs), name in twins.items():
        training = Training(digits, channels, epochs, seed)
        arms.append(_beside(right, *_train(name, training, channels, told)))
    report = dataclasses.replace(
        report,
        title="Growing on 5,000 handwritten digits",
        metric=TEST_METRIC,
        quality_before=arms[2].values[-1],
        quality_after=pruned.values[-1],
        quality_source="before: the narrow network, trained as long",
        arms=tuple(arms),
        notes=(*report.notes, said, *_notes(seed)),
    )
    write_report(report, folder)
    return report, said


def _notes(seed: int) -> tuple[str, ...]:
    return (
        f"Seed {seed} for all of them, the same data, order of images and learning rate, tuned for none.",
        "Decisions rest on 500 probe images. Curve and result show 1,000 test images that no decision saw.",
        "Training FLOPs are those of the steps, with the passes of all seeds, refused ones too.",
        "What gates and analysis measure is not counted in them.",
    )


def _grow(training: Training, folder: Path, told: Told) -> tuple[RunReport, ArmRow]:
    """The run that grows."""
    steps = -(-len(training.digits.train) // BATCH)
    session = _session(training, folder, _settings(steps))
    spent, values = _trained(session, training, "grown", told)
    result = session.finish()
    report: RunReport = result.report
    flops, parameters = report.flops_after, report.parameters_after
    name = "the grown network" if result.grown else _NOT_GROWN
    return report, ArmRow(f"{name}, unpruned", spent, values, flops, parameters)


def _prune(training: Training, grown: ArmRow, folder: Path, told: Told) -> tuple[ArmRow, str]:
    """The run that prunes what has grown, with the same optimizer; and what came of it, in words."""
    begun = training.begin_again(max(4, training.epochs // 2))
    session = _session(training, folder, {"pruning": {"target": {"flops": PRUNED}}})
    spent, values = _trained(session, training, "pruned", told, begun)
    result = session.finish(latency=False)
    values = (*values[:-1], accuracy(result.model, training.digits.test))  # after the last cut
    report: RunReport = result.report
    spent = (*grown.spent, *(grown.spent[-1] + flops for flops in spent))
    values = (*grown.values, *values)
    flops, parameters = report.flops_after, report.parameters_after
    name = grown.name.removesuffix(", unpruned")
    return ArmRow(f"{name}, pruned", spent, values, flops, parameters), f"Then {name} was pruned: {result}"


def _session(training: Training, folder: Path, config: dict[str, Any]) -> Session:
    train = training.digits.train
    return esper.attach(
        training.model,
        training.optimizer,
        loss=smoothed_cross_entropy,
        sample=(train.images[:BATCH], train.labels[:BATCH]),
        probe=training.digits.probe.batches(100),
        metric="accuracy",
        run_dir=folder,
        config=config,
        epochs=training.epochs,
        scheduler=training.scheduler,
    )


def _trained(
    session: Session, training: Training, name: str, told: Told, begun: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Training FLOPs and test accuracy when each epoch was over; `begun` epochs went before."""
    digits, spent, values = training.digits, [], []
    for epoch in range(1, training.epochs + 1):
        training.epoch(begun + epoch, session.loss)
        spent.append(len(digits.train) * _step_flops(session))
        values.append(accuracy(training.model, digits.test))
        session.end_epoch(accuracy=accuracy(training.model, digits.probe), **{TEST_METRIC: values[-1]})
        told(name, epoch, values[-1])
    return tuple(itertools.accumulate(spent)), tuple(values)


def _settings(steps: int) -> dict[str, Any]:
    """Seeds learn for two epochs and are blended in over one; nothing is pruned, for there is no target."""
    return {
        "strategy": {"policy": "plateau", "patience_epochs": 2, "width": 2 * NARROW, "max_tries": 4},
        "growing": {
            "train_steps": 2 * steps,
            "ramp_steps": steps,
            "patience_epochs": 2,
            "embargo_epochs": 2,
            "max_parameters": 3.0,
            "max_latency": 6.0,
        },
    }


def _step_flops(session: Session) -> float:
    """FLOPs of one sample in a step as things stand: of the network, and of every seed with its passes."""
    host = session.parts.network.anatomy.flops(session.parts.network.masks.keep)
    every = session.parts.terms.config.growing.counterfactual_every
    extra = 0.0
    for slot in session.growing.slots.values():
        if slot.layer is None:
            continue
        extra += _seed_flops(slot)
        if slot.stage is Stage.TRAINING:  # a second pass through the host, forward and backward
            extra += host
        elif slot.stage is Stage.PROBATIONARY:  # two forward passes every so many steps
            extra += 2 * host / (_PASSES * every)
    return _PASSES * (host + extra)


def _seed_flops(slot: Slot) -> float:
    """FLOPs of one sample in a seed of convolutions or linear layers."""
    positions = math.prod(slot.track.shape[2:])
    return 2.0 * positions * sum(p.numel() for p in slot.own() if p.dim() > 1)


def _train(name: str, training: Training, width: int, told: Told) -> tuple[ArmRow, Tensor]:
    anatomy = esper.inspect(network(width), training.digits.train.images[:2])
    values = []
    for epoch in range(1, training.epochs + 1):
        training.epoch(epoch, lambda output, labels, _: smoothed_cross_entropy(output, labels))
        values.append(accuracy(training.model, training.digits.test))
        told(name, epoch, values[-1])
    each = _PASSES * anatomy.flops() * len(training.digits.train)
    spent = tuple(each * (epoch + 1) for epoch in range(training.epochs))
    arm = ArmRow(name, spent, tuple(values), anatomy.flops(), anatomy.parameters())
    return arm, _right(training.model, training.digits.test)


def _beside(run: Tensor, arm: ArmRow, own: Tensor) -> ArmRow:
    """An arm with the test images that only one of both names correctly."""
    return dataclasses.replace(arm, wins=int((run & ~own).sum()), losses=int((own & ~run).sum()))


def _right(model: nn.Module, split: Split) -> Tensor:
    """Which images a network names correctly: bool [images]."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(images).argmax(1) == labels for images, labels in split.batches(250)])


def _epoch_flops(width: int, digits: Digits) -> float:
    anatomy = esper.inspect(network(width), digits.train.images[:2])
    return _PASSES * anatomy.flops() * len(digits.train)


def _width_of(flops: float, digits: Digits) -> int:
    """The narrowest network that has at least so many FLOPs."""
    per_epoch = _PASSES * flops * len(digits.train)
    wide_enough: Iterator[int] = (w for w in range(NARROW, WIDEST) if _epoch_flops(w, digits) >= per_epoch)
    return next(wide_enough, WIDEST)
