"""Distillation: a frozen network teaches another by its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from esper.anatomy.twin import Twin
from esper.batches import class_axis
from esper.errors import ConfigError


@dataclass(frozen=True)
class Teacher:
    """A network as it once was: its graph, and its tensors by name, on the device of who learns."""

    twin: Twin
    state: Mapping[str, Tensor]

    def output(self, inputs: Any, target: Any) -> Tensor | None:
        """What it answers in eval mode, without gradients; None where its graph is not for batches this big.

        Args:
            inputs: a tensor, several in a tuple, or a mapping of keyword inputs.
            target: the target that belongs to them.

        Raises:
            EvidenceError: they are not built like the sample that was traced.
        """
        sample = (*inputs, target) if isinstance(inputs, tuple) else (inputs, target)
        if not self.twin.takes(sample):
            return None
        with torch.no_grad():
            return self.twin.loss(self.state, sample)[1].detach()


@dataclass(frozen=True)
class StaticKDLoss:
    """The loss of a network that is taught: its own, and how far its output is from the teacher's.

    Attributes:
        temperature: softens the classes of both.
        weight: share of the teacher.

    Source: Hinton, Vinyals and Dean (2015), "Distilling the knowledge in a neural network", section 2.
    """

    temperature: float = 4.0
    weight: float = 0.3

    def __call__(self, own: Tensor, output: Tensor, taught: Tensor, target: Any) -> Tensor:
        """`(1 - weight) * own + weight * distillation_loss(...)`.

        Args:
            own: what the network's loss is without a teacher, a scalar.
            output: of the network that learns.
            taught: of the teacher; no gradient goes to it.
            target: says whether the outputs are scores of classes.

        Raises:
            ConfigError: the outputs have different shapes.
        """
        lesson = distillation_loss(output, taught, target, self.temperature)
        return (1 - self.weight) * own + self.weight * lesson.to(own.dtype)


def distillation_loss(output: Tensor, taught: Tensor, target: Any, temperature: float) -> Tensor:
    """How far an output is from what the teacher says: a scalar of 32 bits or more.

    Where the target numbers classes: the Kullback-Leibler divergence of the softened classes, mean over all
    predictions, times the temperature squared, so that its gradients are as large as those of the cross
    entropy. Predictions whose target is below zero (padding) do not count. Elsewhere: the mean squared
    difference. Where the teacher's answer is no number, there is nothing to learn.

    Args:
        output: of the network that learns, scores of shape [..., classes] or [n, classes, ...].
        taught: of the teacher, of the same shape.
        target: decides which of both it is.
        temperature: above zero.

    Raises:
        ConfigError: the outputs have different shapes.
    """
    if output.shape != taught.shape:
        raise ConfigError(
            f"The teacher's answer has the shape {list(taught.shape)}, and the network's output "
            f"{list(output.shape)}. It must be for the same classes (tokens) in the same order. Nothing was "
            "computed."
        )
    output, taught = (t.float() if t.dtype.itemsize < 4 else t for t in (output, taught.detach()))
    axis = class_axis(output, target)
    if axis is None:
        return _mean((output - taught.nan_to_num()).square(), taught.isfinite())
    # The divergence of what is learned from what is taught, sum of p_taught (log p_taught - log p_learned).
    softened = F.log_softmax(output / temperature, axis)
    wanted = F.log_softmax(taught.nan_to_num(0.0, 0.0, 0.0) / temperature, axis)
    divergence = F.kl_div(softened, wanted, reduction="none", log_target=True).sum(axis)
    counts = taught.isfinite().all(axis) & (target >= 0).to(output.device)
    return _mean(divergence, counts) * temperature**2


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of those that count; 0 where none does."""
    return values.where(counts, 0.0).sum() / counts.sum().clamp(min=1)
