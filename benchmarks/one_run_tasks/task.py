"""One training job: a network, its data, and its quality on data that nothing is decided by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A job in `epochs` stretches of equally many steps; a checkpoint is taken after each.

    Attributes:
        network: builds it, after the seed was set.
        stretch: the batches of one stretch, by seed and number.
        loss: `loss(output, target)`.
        probe: held-out batches that decisions rest on.
        watch: test batches, looked at after every stretch.
        test: test batches for the result.
        is_accuracy: quality is the share of right answers; else the mean loss, and less is better.
        epochs: how many stretches.
        steps: steps of one.
        peak: of the learning rate.
        results: names of the modules that make the results, which the peer must not cut.
        heads: names of projections of attention and their number of heads, for the peer.
        about: data and network in one line.
    """

    network: Callable[[], nn.Module]
    stretch: Callable[[int, int], Sequence[Batch]]
    loss: Callable[[Any, Any], Tensor]
    probe: Sequence[Batch]
    watch: Sequence[Batch]
    test: Sequence[Batch]
    is_accuracy: bool
    epochs: int
    steps: int
    peak: float
    results: Sequence[str]
    about: str
    heads: Mapping[str, int] = field(default_factory=dict)

    def start(self, seed: int) -> tuple[nn.Module, AdamW, OneCycleLR]:
        """A fresh network with its optimizer and learning rates: the same for all arms."""
        torch.manual_seed(seed)
        model = self.network()
        return model, *self.optimizer(model)

    def optimizer(self, model: nn.Module) -> tuple[AdamW, OneCycleLR]:
        optimizer = AdamW(model.parameters(), weight_decay=1e-2)
        return optimizer, OneCycleLR(
            optimizer, self.peak, total_steps=self.epochs * self.steps, pct_start=0.1
        )

    def quality(self, model: nn.Module, batches: Sequence[Batch]) -> float:
        """Share of right answers, or the mean loss; NaN if the network answers NaN."""
        model.eval()
        total, count = 0.0, 0
        with torch.inference_mode():
            for inputs, targets in batches:
                output = model(inputs)
                if not bool(output.isfinite().all()):
                    return math.nan
                if self.is_accuracy:
                    total += int((output.argmax(-1) == targets).sum())
                else:
                    total += float(self.loss(output, targets)) * targets.numel()
                count += targets.numel()
        model.train()
        return total / count

    def lead(self, mine: float, other: float) -> float:
        """By how much `mine` is better than `other`: points for an accuracy, nats for a loss."""
        return mine - other if self.is_accuracy else other - mine
