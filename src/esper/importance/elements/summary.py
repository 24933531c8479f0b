"""What the scores of single elements say of every tensor, in a few numbers that people can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper.importance.elements.element_tracking import ElementTracking
from esper.importance.elements.stored import ErrorBound

THRESHOLDS = (0.001, 0.01, 0.1)
"""Shares of the network's root mean square score, below which elements are counted."""

_SHOWN = 5


@dataclass(frozen=True)
class TensorElements:
    """The elements of one tensor.

    Attributes:
        tensor: its name.
        size: how many elements it has.
        measured: how many of them have a score.
        median: their median score; NaN without any.
        below: for every threshold, the share of the measured elements whose score is smaller.
        least: the least important elements, `(index, score)`, the least first.
        most: the most important ones, the most important first.
        error: how far the scores can be off.
    """

    tensor: str
    size: int
    measured: int
    median: float
    below: Mapping[float, float]
    least: tuple[tuple[tuple[int, ...], float], ...]
    most: tuple[tuple[tuple[int, ...], float], ...]
    error: ErrorBound


def summaries(scores: ElementTracking, shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorElements, ...]:
    """Every tracked tensor in a few numbers.

    Args:
        scores: the store.
        shapes: of the tensors by name; the index of an element is along these axes.
    """
    # First the scale of the whole network, so that shares below a threshold can be compared between tensors.
    squares, count = 0.0, 0
    for name in scores.sizes:
        values = _measured(scores.of(name))[0]
        squares, count = squares + float(values.double().square().sum()), count + values.numel()
    scale = (squares / count) ** 0.5 if count else 0.0
    return tuple(
        _summary(name, scores.of(name), shapes.get(name, (size,)), scale, scores.error(name))
        for name, size in scores.sizes.items()
    )


def _measured(values: Tensor) -> tuple[Tensor, Tensor]:
    """The scores that are known, and their places: two tensors of shape [measured]."""
    places = torch.isfinite(values).nonzero().flatten()
    return values[places], places


def _summary(
    name: str, values: Tensor, shape: tuple[int, ...], scale: float, error: ErrorBound
) -> TensorElements:
    known, places = _measured(values)
    count = min(_SHOWN, known.numel())

    def shown(largest: bool) -> tuple[tuple[tuple[int, ...], float], ...]:
        top = known.topk(count, largest=largest)
        # Places are flat; people look along the tensor's axes.
        indices = np.unravel_index(places[top.indices].cpu().numpy(), shape)
        rows = zip(*(axis.tolist() for axis in indices), strict=True)
        return tuple(zip(rows, top.values.tolist(), strict=True))

    return TensorElements(
        tensor=name,
        size=values.numel(),
        measured=known.numel(),
        median=float(known.median()) if known.numel() else float("nan"),
        below={
            threshold: float((known < threshold * scale).double().mean()) if known.numel() else float("nan")
            for threshold in THRESHOLDS
        },
        least=shown(largest=False),
        most=shown(largest=True),
        error=error,
    )
