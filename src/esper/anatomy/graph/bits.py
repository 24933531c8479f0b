"""Numbers that tell whether tensors have changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def sums_of_bits(tensors: Iterable[Tensor]) -> list[int]:
    """A number for every tensor that is another one if a bit of it is; read where the tensors are."""
    sums = [_sum_of_bits(tensor.detach()) for tensor in tensors]
    home = sums[0].device if sums else None
    numbers: list[int] = torch.stack([one.to(home) for one in sums]).tolist() if sums else []
    return numbers


def _sum_of_bits(tensor: Tensor) -> Tensor:
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.contiguous().reshape(-1).view(_WORDS[real.element_size()]).sum(dtype=torch.int64)
