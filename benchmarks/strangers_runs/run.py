"""One ordinary training as its owner wrote it: network, data, loss, optimizer and loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils import _pytree as pytree

Batch = tuple[Any, Any]
"""Inputs (a tensor, several in a tuple, or a mapping of keywords) and target."""


@dataclass(frozen=True)
class Folders:
    """Where data lies that no Python package carries; None: where its own package puts it."""

    fashion: Path | None = None
    speeches: Path | None = None


@dataclass(frozen=True)
class Data:
    """To train on, to evaluate with while training, and to judge by: no sample is in two of them."""

    train: Batch
    probe: Batch
    test: Batch


@dataclass(frozen=True)
class Run:
    """A training and what is asked of Esper: a target, and nothing else.

    Attributes:
        about: network and data in one line.
        network: builds it, after the seed was set.
        data: all samples; the first axis of every tensor is theirs.
        loss: `loss(output, target)`.
        score: quality of every sample (or position) by output and target; their mean is the metric.
        optimizer: of a network.
        epochs: how many.
        results: names of the modules that make the results, which the peer must not cut.
        batch: samples of one.
        metric: the name of the quality; more is better unless it is a loss.
        is_loss: less is better.
        target: share of the FLOPs that shall go.
        scheduler: of an optimizer and the number of its steps; advanced after every step.
        heads: names of projections of attention and their number of heads, for the peer.
        round_to: widths that the peer leaves are multiples of it, as torch's own attention needs.
        accumulate: batches whose gradients make one step.
        clip: largest norm of the gradients.
        is_mixed: forward passes of training run under autocast to bfloat16.
        decay: of an exponential moving average of the weights, which is what is evaluated and kept.
        says_epochs: whether `attach` is told how many epochs there will be.
        evaluates_every: in epochs; the last one is always evaluated.
    """

    about: str
    network: Callable[[], nn.Module]
    data: Data
    loss: Callable[[Any, Any], Tensor]
    score: Callable[[Any, Any], Tensor]
    optimizer: Callable[[nn.Module], Optimizer]
    epochs: int
    results: Sequence[str]
    batch: int = 32
    metric: str = "accuracy"
    is_loss: bool = False
    target: float = 0.5
    scheduler: Callable[[Optimizer, int], LRScheduler] | None = None
    heads: Mapping[str, int] = field(default_factory=dict)
    round_to: int | None = None
    accumulate: int = 1
    clip: float | None = None
    is_mixed: bool = False
    decay: float | None = None
    says_epochs: bool = True
    evaluates_every: int = 1

    @property
    def steps(self) -> int:
        """Optimizer steps of one epoch; what fills no step is left out."""
        return size(self.data.train) // (self.batch * self.accumulate)

    def epoch(self, seed: int, number: int) -> list[Batch]:
        """The batches of one epoch, in an order that depends on seed and number alone."""
        generator = torch.Generator().manual_seed(1_000 * seed + number)
        order = torch.randperm(size(self.data.train), generator=generator)
        return [
            rows(self.data.train, part) for part in order.split(self.batch)[: self.steps * self.accumulate]
        ]


def size(batch: Batch) -> int:
    """Number of samples."""
    return int(pytree.tree_leaves(batch)[0].shape[0])


def rows(batch: Batch, chosen: Tensor | slice) -> Batch:
    """The chosen samples."""
    picked: Batch = pytree.tree_map(lambda leaf: leaf[chosen], batch)
    return picked


def in_batches(batch: Batch, count: int) -> list[Batch]:
    """All samples in their order, `count` at a time."""
    return [rows(batch, slice(start, start + count)) for start in range(0, size(batch), count)]


def parts(batch: Batch, *counts: int) -> list[Batch]:
    """The first so many samples, the next so many, ..."""
    ends = [sum(counts[: number + 1]) for number in range(len(counts))]
    return [rows(batch, slice(end - count, end)) for count, end in zip(counts, ends, strict=True)]


def is_right(scores: Tensor, classes: Tensor) -> Tensor:
    """Of every sample: is the highest score that of its class?"""
    return (scores.argmax(-1) == classes).float()


def of_class(scores: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of every sample."""
    return F.cross_entropy(scores, classes, reduction="none")
