"""Where the scores of classes lie in what a network gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def class_axis(output: Tensor, target: Any) -> int | None:
    """The axis of `output` with a score for every class, if `target` says which class is right; else None.

    Args:
        output: scores [..., classes], as of language models, or [samples, classes, ...], as of images.
        target: numbers of classes, in the shape of `output` without that axis.
    """
    if not isinstance(target, Tensor) or target.is_floating_point() or target.dtype == torch.bool:
        return None
    if output.dim() != target.dim() + 1:
        return None
    if output.shape[:-1] == target.shape:
        axis = output.dim() - 1
    elif output.shape[:1] + output.shape[2:] == target.shape:
        axis = 1
    else:
        return None
    return axis if output.shape[axis] > 1 else None  # of one number there is no choice
