"""Exact sums by key: sorted keys and their sums, for as long as they fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BYTES_PER_KEY = 16


@dataclass(frozen=True, eq=False)
class ExactSums:
    """Distinct keys in ascending order (int64) and the sum of the values of each (float64)."""

    keys: Tensor
    sums: Tensor

    @classmethod
    def empty(cls, device: torch.device) -> ExactSums:
        return cls(
            torch.zeros(0, dtype=torch.int64, device=device),
            torch.zeros(0, dtype=torch.float64, device=device),
        )

    @property
    def num_keys(self) -> int:
        return self.keys.numel()

    def added(self, keys: Tensor, values: Tensor) -> ExactSums:
        """These sums and further values; a key may come several times."""
        # Old and new keys in one ascending list; `place` [old + new] is where each one's value goes.
        distinct, place = torch.unique(torch.cat([self.keys, keys]), return_inverse=True)
        sums = torch.zeros(distinct.numel(), dtype=torch.float64, device=distinct.device)
        return ExactSums(distinct, sums.index_add_(0, place, torch.cat([self.sums, values.double()])))

    def of(self, keys: Tensor) -> Tensor:
        """The sum of every key: float64 of the shape of `keys`, NaN where a key was never added."""
        if not self.num_keys:
            return torch.full(keys.shape, torch.nan, dtype=torch.float64, device=keys.device)
        # Where the key would be inserted. Beyond the last there is nothing to compare with.
        place = torch.searchsorted(self.keys, keys).clamp_max(self.num_keys - 1)
        return torch.where(self.keys[place] == keys, self.sums[place], torch.nan)
