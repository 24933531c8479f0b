"""One byte for a size: its logarithm, in 254 even steps between the least and the largest of a block."""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 254


def encode(values: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (uint8, same shape) and the range (float32 [2]: the logarithms of the smallest and largest).

    Zero has the code 0 and stays exactly zero. The rounding error of every other value is at most half a
    step: a factor of 2**((largest - smallest) / 508).
    """
    logs = values.log2()
    # Zeros have the logarithm -inf and must not stretch the range.
    is_positive = values > 0
    low = torch.where(is_positive, logs, torch.inf).amin()
    high = torch.where(is_positive, logs, -torch.inf).amax()
    # In a block of zeros the least (inf) lies above the largest (-inf): then the range is 0 to 0.
    low, high = torch.where(low <= high, torch.stack([low, high]), 0.0)
    # Equal values have no range, and the step still must divide.
    step = ((high - low) / _STEPS).clamp_min(torch.finfo(torch.float32).tiny)
    # Codes 1 to 255; 0 is kept for zero itself.
    codes = ((logs - low) / step).round_().clamp_(0, _STEPS) + 1
    return torch.where(is_positive, codes, 0.0).to(torch.uint8), torch.stack([low, high])


def decode(codes: Tensor, span: Tensor) -> Tensor:
    """The values of codes: float32, same shape."""
    low, high = span
    values = torch.exp2(low + (codes.float() - 1) * ((high - low) / _STEPS))
    return torch.where(codes > 0, values, 0.0)
