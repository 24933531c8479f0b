"""The loop that all runs share, as their owners would write it, and what is looked at beside it."""

from __future__ import annotations

import math
import os
import traceback

import torch
from torch import nn
from torch.utils import _pytree as pytree

from architectures.checks import flops
from one_run_tasks import Clock
from pretrained_networks.peer import called
from strangers_runs.arms import ARMS, Narrow, Twin
from strangers_runs.record import Record
from strangers_runs.run import Batch, Run, in_batches, rows, size

WATCHED = 1_000
"""Test samples that are looked at after every epoch."""
LOOKED_AT = 250
"""Samples of one forward pass of an evaluation."""


def trained(run: Run, name: str, arm: str, seed: int) -> Record:
    """Trains one arm, with one torch thread; whatever ends it early is written into the record."""
    torch.set_num_threads(1)
    record = Record(name, arm, seed, run.target, run.metric, run.is_loss)
    clock = Clock()
    try:
        _train(run, arm, seed, record, clock)
    except Exception as error:  # noqa: BLE001  either tool may fail in any way, and that is a result
        place = traceback.extract_tb(error.__traceback__)[-1]
        record.error = f"{type(error).__name__}: {str(error)[:400]} ({place.name}, line {place.lineno})"
    record.wall_seconds, record.cpu_seconds = clock.seconds, clock.processor_seconds
    record.load = os.getloadavg()[0]
    return record


def _train(run: Run, arm: str, seed: int, record: Record, clock: Clock) -> Twin:
    watch = rows(run.data.test, slice(0, WATCHED))
    torch.manual_seed(seed)
    training = ARMS[arm](run, seed, record, clock)
    whole = _flops(training.kept, run)
    if isinstance(training, Narrow):  # how its widths were found is no part of its time
        before = Record(record.name, "esper", seed, run.target, run.metric, run.is_loss)
        cut = _train(run, "esper", seed, before, Clock()).model
        torch.manual_seed(seed)
        training.become(cut)
    training.begin()
    for number in range(1, run.epochs + 1):
        with clock:
            _epoch(training, number)
            is_due = number % run.evaluates_every == 0 or number == run.epochs
            quality = _quality(training.kept, run, run.data.probe) if is_due else None
        record.curve.append(_quality(training.kept, run, watch))
        if training.end_epoch(number, quality):
            record.instants.append((number, _quality(training.kept, run, watch)))
    if training.finish():
        record.instants.append((run.epochs, _quality(training.kept, run, watch)))
    record.final = _quality(training.kept, run, run.data.test)
    record.share = 1 - _flops(training.kept, run) / whole
    return training


def _epoch(training: Twin, number: int) -> None:
    run, model, optimizer = training.run, training.model, training.optimizer
    model.train()
    for count, (inputs, target) in enumerate(run.epoch(training.seed, number), start=1):
        with torch.autocast("cpu", torch.bfloat16, enabled=run.is_mixed):
            loss = run.loss(called(model, inputs), target) / run.accumulate
        loss.backward()
        if count % run.accumulate:
            continue
        if run.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), run.clip)
        optimizer.step()
        optimizer.zero_grad()
        if training.scheduler is not None:
            training.scheduler.step()
        if training.mean is not None:
            training.mean.update_parameters(model)


def _quality(model: nn.Module, run: Run, batch: Batch) -> float:
    """Mean score of all samples; NaN if the network answers NaN."""
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for inputs, target in in_batches(batch, LOOKED_AT):
            scores = run.score(called(model, inputs), target).double()
            total += float(scores.mean()) * size((inputs, target))
    model.train(was_training)
    mean = total / size(batch)
    return mean if math.isfinite(mean) else math.nan


def _flops(model: nn.Module, run: Run) -> float:
    was_training = model.training
    inputs = pytree.tree_map(lambda leaf: leaf[:2], run.data.probe[0])
    count = flops(model.eval(), inputs)
    model.train(was_training)
    return count
