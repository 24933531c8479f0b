"""Injects failures into real training runs and counts what they cost: steps of training, wrong masks.

Every run trains the same small network from the same randomness. What must not be hurt is known exactly: the
same run without Esper's pruning, and the same run undisturbed, bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from esper.checkpoint import CheckpointRef, encode, tensor_bytes
from tests.session.runs import Training
from tests.workers.processes import workers

PATIENT: dict[str, Any] = {
    "target": {"flops": 0.4},
    "schedule": {"start_epoch": 2, "end_epoch": 5, "max_rest_epochs": 0},
    "budget": {"max_failures": 100},
}
"""Tries again at once, however often it fails."""


@dataclass(frozen=True)
class Tally:
    """What a failure cost.

    Attributes:
        steps: optimizer steps that were asked for.
        lost: how many of them the session does not count.
        masks: units that are masked or cut now.
        is_exact: whether network, optimizer and random state are those of the run that it is held against.
        told: what the log says about it.
    """

    steps: int
    lost: int
    masks: int
    is_exact: bool
    told: str


def with_workers(run_dir: Path, **changes: Any) -> Training:
    """A run that is analyzed by one worker process."""
    pruning = {**PATIENT, **changes.pop("pruning", {})}
    analysis = {"workers": 1, **changes.pop("analysis", {})}
    return Training(run_dir, pruning=pruning, analysis=analysis, **changes)


def plain(run_dir: Path, epochs: int) -> str:
    """State of the same run where nothing is ever pruned."""
    training = Training(run_dir, pruning={"target": None})
    for _ in range(epochs):
        training.epoch(lambda _: 0.5)
    found = state_of(training)
    training.session.detach()
    return found


def state_of(training: Training) -> str:
    """Every bit of network, optimizer and random state."""
    whole = training.state()
    encoded = encode({name: whole[name] for name in ("model", "optimizer", "scheduler", "rng", "counts")})
    digest = hashlib.sha256(repr(encoded.tree).encode())
    for name in sorted(encoded.tensors):
        digest.update(bytes(tensor_bytes(encoded.tensors[name])))
    return digest.hexdigest()


def tally(training: Training, expected: str, epochs: int, *, masked: bool) -> Tally:
    """What it came to after `epochs` epochs; `masked` runs are held against a whole fingerprint."""
    steps = epochs * len(list(_quiet_batches(training)))
    network = training.session.parts.network
    gone = network.masks.num_masked + len(network.changes)
    marks = training.session.log.marks
    found = training.fingerprint() if masked else state_of(training)
    told = marks[-1].text if marks else ""
    return Tally(steps, steps - training.session.step, gone, found == expected, told)


def _quiet_batches(training: Training) -> Iterator[object]:
    with torch.random.fork_rng(devices=[]):
        yield from training.batches()


def newest(training: Training) -> CheckpointRef:
    """The newest checkpoint, when it is durable."""
    training.session.parts.saving.settle()
    found = training.session.parts.saving.newest
    assert found is not None
    return found


def started(before: list[int]) -> int:
    """The first worker process that is not one of those, as soon as it is there; fails after a minute."""
    end = time.monotonic() + 60.0
    while not (new := set(workers()) - set(before)):
        assert time.monotonic() < end, "no worker has started"
        os.sched_yield()
    return min(new)


def flip(path: Path) -> None:
    """Changes the last byte of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
