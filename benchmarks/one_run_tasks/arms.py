"""One job trained plainly, with Esper, or cut once by Torch-Pruning on the way: the same steps for all."""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import esper
from architectures.checks import flops
from one_run_tasks.task import Task
from pretrained_networks.case import Case
from pretrained_networks.peer import Taylor

PEER_EPOCH = 0.4
"""Share of the stretches after which the peer cuts once; the rest is its fine-tuning."""


@dataclass
class Figures:
    """What one training gave.

    Attributes:
        share: of the FLOPs that is gone at the end, by torch's own counter.
        seconds: of training, checkpoints and cuts, without looks at the test data.
        processor_seconds: of this process and its workers, which other work on the machine lengthens little.
        curve: quality on the watched test batches after every stretch, before anything is removed there.
        instants: number of the stretch and quality right after something was removed.
        final: quality on all test batches.
        events: number of the stretch and what Esper did.
    """

    share: float = 0.0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    curve: list[float] = field(default_factory=list)
    instants: list[tuple[int, float]] = field(default_factory=list)
    final: float = 0.0
    events: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class _Timed:
    """Adds up the time inside its blocks."""

    figures: Figures

    def __enter__(self) -> None:
        self._begun = time.perf_counter(), _processor_seconds()

    def __exit__(self, *_: object) -> None:
        self.figures.seconds += time.perf_counter() - self._begun[0]
        self.figures.processor_seconds += _processor_seconds() - self._begun[1]


def _processor_seconds() -> float:
    """Of this process and its children that have ended: workers count when `finish` has closed them."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def trained(task: Task, arm: str, seed: int, share: float) -> Figures:
    """Trains one arm, with one torch thread."""
    torch.set_num_threads(1)
    figures = Figures()
    model = ARMS[arm](task, seed, share, figures)
    figures.final = task.quality(model, task.test)
    inputs = task.probe[0][0][:2]
    figures.share = 1 - flops(model, inputs) / flops(task.network(), inputs)
    return figures


LossOfStep = Callable[[Any, Tensor, Tensor], Tensor]
"""Output, target and inputs to the loss that is trained on."""


def _step(
    task: Task,
    model: nn.Module,
    optimizer: Any,
    scheduler: Any,
    seed: int,
    number: int,
    loss: LossOfStep | None = None,
) -> None:
    model.train()
    for inputs, targets in task.stretch(seed, number):
        optimizer.zero_grad()
        output = model(inputs)
        (task.loss(output, targets) if loss is None else loss(output, targets, inputs)).backward()
        optimizer.step()
        scheduler.step()


def _plain(task: Task, seed: int, _: float, figures: Figures) -> nn.Module:
    model, optimizer, scheduler = task.start(seed)
    for number in range(1, task.epochs + 1):
        with _Timed(figures):
            _step(task, model, optimizer, scheduler, seed, number)
            task.quality(model, task.probe)
        figures.curve.append(task.quality(model, task.watch))
    return model


def _esper(
    task: Task, seed: int, share: float, figures: Figures, changes: Mapping[str, Any] | None = None
) -> nn.Module:
    """Trains with Esper; `changes` are settings of pruning, section by section."""
    timed = _Timed(figures)
    model, optimizer, scheduler = task.start(seed)
    with tempfile.TemporaryDirectory() as folder:
        with timed:
            session = esper.attach(
                model,
                optimizer,
                loss=task.loss,
                sample=task.stretch(seed, 0)[0],
                probe=task.probe,
                metric="quality",
                higher_is_better=task.is_accuracy,
                run_dir=f"{folder}/run",
                config=settings(task, share, changes or {}),
                epochs=task.epochs,
                scheduler=scheduler,
            )
        for number in range(1, task.epochs + 1):
            with timed:
                _step(task, model, optimizer, scheduler, seed, number, session.loss)
                measured = task.quality(model, task.probe)
            figures.curve.append(task.quality(model, task.watch))
            known = len(session.log.marks)
            with timed:
                session.end_epoch(quality=measured)
            marks = session.log.marks[known:]
            figures.events += [(mark.epoch, f"{mark.kind}: {mark.text}") for mark in marks]
            if any(mark.kind in ("mask", "cut") for mark in marks):
                figures.instants.append((number, task.quality(model, task.watch)))
        with timed:
            result = session.finish(latency=False)
        figures.events += [(task.epochs, f"note: {note}") for note in result.report.notes]
    return model


def settings(task: Task, share: float, changes: Mapping[str, Any]) -> esper.Config:
    """For a job this short: the analysis is small, and steps are in proportion to what shall go."""
    pruning: dict[str, dict[str, Any]] = {
        "target": {"flops": share},
        "schedule": {
            "start_fraction": 0.17,
            "end_fraction": 0.4,
            "shape": "linear",
            "max_step_fraction": share / 3,
            "quiet_fraction": 0.2,
        },
        "plan": {
            "round_to": task.round_to,
            "finalist_factor": 3.0,
            "finalist_spread": 0.1,
            "max_attempts": 2,
        },
        "floors": {"min_channels": 4, "min_keep_fraction": 0.1},
    }
    for section, values in changes.items():
        pruning[section] = {**pruning.get(section, {}), **values}
    return esper.Config.model_validate(
        {
            "pruning": pruning,
            "analysis": {
                "calibration_samples": 8 * task.batch_samples,
                "batch_samples": task.batch_samples,
                "held_out_samples": task.held_out_samples,
            },
        }
    )


def _peer(task: Task, seed: int, share: float, figures: Figures) -> nn.Module:
    """Trains, cuts once by Taylor scores of whole groups, and goes on with a new optimizer."""
    timed = _Timed(figures)
    model, optimizer, scheduler = task.start(seed)
    for number in range(1, task.epochs + 1):
        with timed:
            _step(task, model, optimizer, scheduler, seed, number)
            task.quality(model, task.probe)
        figures.curve.append(task.quality(model, task.watch))
        if number == round(PEER_EPOCH * task.epochs):
            with timed, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the new schedule is told at which step it is
                model = _cut_by_peer(task, model, share)
                optimizer, scheduler = task.optimizer(model)
                for _ in range(number * task.steps):
                    scheduler.step()
            figures.instants.append((number, task.quality(model, task.watch)))
    return model


def _cut_by_peer(task: Task, model: nn.Module, share: float) -> nn.Module:
    modules = dict(model.named_modules())
    case = Case(
        model=model.eval(),
        batches=task.probe,
        loss=task.loss,
        quality=lambda _: {},
        results=[modules[name] for name in task.results],
        data="",
        calibration=360,
        heads={modules[name]: count for name, count in task.heads.items()},
    )
    inputs = task.probe[0][0][:2]
    cut = Taylor.of(case).cut(share, lambda other: flops(other, inputs), is_global=True, most=0.9)
    return cut.train()


ARMS: dict[str, Callable[[Task, int, float, Figures], nn.Module]] = {
    "plain": _plain,
    "esper": _esper,
    "peer": _peer,
    "unmended": partial(_esper, changes={"recovery": {"reconstruct": False}}),
    "taught": partial(_esper, changes={"recovery": {"distill": True}}),
    "layers": partial(
        _esper,
        changes={
            "schedule": {"levels": ["channel", "head", "layer"]},
            "floors": {"min_layers": 2, "min_layers_fraction": 0.5},
        },
    ),
}
"""Without any tool, with Esper, with Torch-Pruning; and with Esper that does not reconstruct what reads
removed units, that lets the network from before the first mask teach, that may remove whole layers."""
