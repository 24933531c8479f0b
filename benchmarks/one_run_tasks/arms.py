"""One job trained plainly, with Esper, or cut once by Torch-Pruning on the way: the same steps for all."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import esper
from architectures.checks import flops
from one_run_tasks.clock import Clock
from one_run_tasks.task import Task
from pretrained_networks.peer import cut_on_the_way

PEER_EPOCH = 0.4
"""Share of the stretches after which the peer cuts once; the rest is its fine-tuning."""


@dataclass
class Figures:
    """What one training gave.

    Attributes:
        share: of the FLOPs that is gone at the end, by torch's own counter.
        seconds: of training, checkpoints and cuts, without looks at the test data.
        processor_seconds: the same, of this process and its workers.
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


def trained(task: Task, arm: str, seed: int, share: float) -> Figures:
    """Trains one arm, with one torch thread."""
    torch.set_num_threads(1)
    figures, clock = Figures(), Clock()
    model = ARMS[arm](task, seed, share, figures, clock)
    figures.seconds, figures.processor_seconds = clock.seconds, clock.processor_seconds
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


def _plain(task: Task, seed: int, _: float, figures: Figures, clock: Clock) -> nn.Module:
    model, optimizer, scheduler = task.start(seed)
    for number in range(1, task.epochs + 1):
        with clock:
            _step(task, model, optimizer, scheduler, seed, number)
            task.quality(model, task.probe)
        figures.curve.append(task.quality(model, task.watch))
    return model


def _esper(
    task: Task,
    seed: int,
    share: float,
    figures: Figures,
    clock: Clock,
    changes: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Trains with Esper; `changes` are settings of pruning, section by section."""
    model, optimizer, scheduler = task.start(seed)
    with tempfile.TemporaryDirectory() as folder:
        with clock:
            session = esper.attach(
                model,
                optimizer,
                loss=task.loss,
                sample=task.stretch(seed, 0)[0],
                probe=task.probe,
                metric="quality",
                higher_is_better=task.is_accuracy,
                run_dir=f"{folder}/run",
                config=settings(share, changes or {}),
                epochs=task.epochs,
                scheduler=scheduler,
            )
        for number in range(1, task.epochs + 1):
            with clock:
                _step(task, model, optimizer, scheduler, seed, number, session.loss)
                measured = task.quality(model, task.probe)
            figures.curve.append(task.quality(model, task.watch))
            known = len(session.log.marks)
            with clock:
                session.end_epoch(quality=measured)
            marks = session.log.marks[known:]
            figures.events += [(mark.epoch, f"{mark.kind}: {mark.text}") for mark in marks]
            if any(mark.kind in ("mask", "cut") for mark in marks):
                figures.instants.append((number, task.quality(model, task.watch)))
        with clock:
            result = session.finish(latency=False)
        figures.events += [(task.epochs, f"note: {note}") for note in result.report.notes]
    return model


def settings(share: float, changes: Mapping[str, Any]) -> esper.Config:
    """A target, and nothing else but what an arm is about."""
    return esper.Config.model_validate({"pruning": {"target": {"flops": share}, **changes}})


def _peer(task: Task, seed: int, share: float, figures: Figures, clock: Clock) -> nn.Module:
    """Trains, cuts once by Taylor scores of whole groups, and goes on with a new optimizer."""
    model, optimizer, scheduler = task.start(seed)
    for number in range(1, task.epochs + 1):
        with clock:
            _step(task, model, optimizer, scheduler, seed, number)
            task.quality(model, task.probe)
        figures.curve.append(task.quality(model, task.watch))
        if number == round(PEER_EPOCH * task.epochs):
            with clock, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the new schedule is told at which step it is
                model = cut_on_the_way(
                    model, task.probe, task.loss, results=task.results, heads=task.heads, share=share
                )
                optimizer, scheduler = task.optimizer(model)
                for _ in range(number * task.steps):
                    scheduler.step()
            figures.instants.append((number, task.quality(model, task.watch)))
    return model


ARMS: dict[str, Callable[[Task, int, float, Figures, Clock], nn.Module]] = {
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
