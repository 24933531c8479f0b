"""Tasks that need torch: how much memory they take, and how many threads they have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open


def allocate(num_bytes: int) -> int:
    return torch.ones(num_bytes, dtype=torch.uint8).numel()


def sum_mapped(file: Path, how: str) -> float:
    if how == "read-only":
        return float(np.memmap(file, np.float32, mode="r")[16:].sum(dtype=np.float64))
    with safe_open(file, "pt") as tensors:
        return float(tensors.get_tensor("big").sum())


def num_threads() -> int:
    return torch.get_num_threads()
