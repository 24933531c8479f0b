"""Distillation: a frozen network teaches another by its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from esper.anatomy.twin import Twin


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


def distillation_loss(output: Tensor, taught: Tensor, target: Any, temperature: float) -> Tensor:
    """How far an output is from what the teacher says: a scalar.

    Where the target numbers classes: the Kullback-Leibler divergence of the softened classes, mean over all
    predictions, times the temperature squared, so that its gradients are as large as those of the cross
    entropy. Elsewhere: the mean squared difference.

    Args:
        output: of the network that learns, scores of shape [..., classes] or [n, classes, ...].
        taught: of the teacher, of the same shape.
        target: decides which of both it is.
        temperature: above zero.

    Source: Hinton, Vinyals and Dean (2015), "Distilling the knowledge in a neural network", section 2.
    """
    axis = _class_axis(output, target)
    if axis is None:
        return F.mse_loss(output, taught)
    # The divergence of what is learned from what is taught, sum of p_taught (log p_taught - log p_learned).
    softened = F.log_softmax(output / temperature, axis)
    wanted = F.log_softmax(taught / temperature, axis)
    divergence = F.kl_div(softened, wanted, reduction="none", log_target=True).sum(axis)
    return divergence.mean() * temperature**2


def _class_axis(output: Tensor, target: Any) -> int | None:
    """The axis that holds the scores of the classes, or None if the target numbers none."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        return None
    if output.dim() != target.dim() + 1:
        return None
    if output.shape[:-1] == target.shape:
        return output.dim() - 1
    return 1 if output.shape[:1] + output.shape[2:] == target.shape else None
