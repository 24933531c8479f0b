"""What tracking measures of every unit: running means on the device, updated without waiting for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper.arrays import FloatArray, IntArray
from esper.errors import EvidenceError
from esper.importance.products import StepSums

_FIELDS = (
    "square",
    "samples",
    "steps",
    "elementwise",
    "elementwise_samples",
    "elementwise_steps",
)
_MEANS = {"square": "samples", "elementwise": "elementwise_samples"}
"""The running means, and what counts their updates."""


@dataclass(eq=False)
class UnitStatistics:
    """Exponential running means over sampled steps: float32 [units] each.

    `square` is of the sum of weight x gradient over the consumers, `elementwise` is of the sum of its squares
    over the producers. They start from zero and are corrected for it when they are read.
    `samples` counts the updates of each unit, `steps` the training steps that these stand for.
    """

    square: Tensor
    samples: Tensor
    steps: Tensor
    elementwise: Tensor
    elementwise_samples: Tensor
    elementwise_steps: Tensor

    @classmethod
    def empty(cls, num_units: int, device: torch.device) -> UnitStatistics:
        # Whatever type the script has made the default.
        return cls(*(torch.zeros(num_units, dtype=torch.float32, device=device) for _ in _FIELDS))

    @property
    def num_units(self) -> int:
        return self.square.numel()

    @property
    def memory_bytes(self) -> int:
        return sum(getattr(self, name).numel() * 4 for name in _FIELDS)

    def update(self, sums: StepSums, momentum: float, stride: int) -> None:
        """Takes in one sampled step, on the device only; it stands for `stride` training steps."""
        # Weights of 0 or 1 for each unit instead of a branch, which would wait for the device.
        share = sums.has_change * sums.is_taken
        self.square.lerp_(sums.change.square(), share * (1.0 - momentum))
        self.samples.add_(share)
        self.steps.add_(share, alpha=stride)
        share = sums.has_square * sums.is_taken
        self.elementwise.lerp_(sums.square, share * (1.0 - momentum))
        self.elementwise_samples.add_(share)
        self.elementwise_steps.add_(share, alpha=stride)

    def taylor(self, momentum: float, min_steps: int, min_samples: int) -> FloatArray:
        """Root mean square of the loss's first-order change: shape [units], NaN where too little was seen."""
        return np.sqrt(self._corrected("square", momentum, min_steps, min_samples))

    def fisher(self, momentum: float, min_steps: int, min_samples: int) -> FloatArray:
        """Mean of the summed squares of weight x gradient: shape [units], NaN where too little was seen."""
        return self._corrected("elementwise", momentum, min_steps, min_samples)

    def select(self, survivors: IntArray, num_units: int) -> UnitStatistics:
        """The same statistics after a cut: unit `u` becomes unit `survivors[u]`, or is gone where that is -1.

        Units that are new begin unmeasured.
        """
        if survivors.shape != (self.num_units,) or survivors.max(initial=-1) >= num_units:
            raise EvidenceError(
                f"Statistics of {self.num_units} units cannot be carried over by a map of shape "
                f"{survivors.shape} to {num_units} units: it needs one entry for every old unit, "
                "its new number or -1."
            )
        # [survivors] each: gathered by old number, scattered to new ones.
        old = torch.from_numpy(np.flatnonzero(survivors >= 0)).to(self.square.device)
        new = torch.from_numpy(survivors[survivors >= 0]).to(self.square.device)
        carried = UnitStatistics.empty(num_units, self.square.device)
        for name in _FIELDS:
            getattr(carried, name).index_copy_(0, new, getattr(self, name).index_select(0, old))
        return carried

    def state(self) -> dict[str, Tensor]:
        """Copies for a checkpoint."""
        return {name: getattr(self, name).detach().clone() for name in _FIELDS}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], num_units: int, device: torch.device) -> UnitStatistics:
        """The inverse of `state`; a unit with an impossible entry starts again, unmeasured.

        Raises:
            EvidenceError: It is not the statistics of `num_units` units; nothing of it was taken over.
        """
        shapes = {name: tuple(state[name].shape) if name in state else "missing" for name in _FIELDS}
        if any(shape != (num_units,) for shape in shapes.values()):
            raise EvidenceError(
                f"These are not the importance statistics of {num_units} units: {shapes}. They belong to "
                "another network or are damaged; start a new tracker; units stay unmeasured "
                "until it has seen enough."
            )
        # [fields, units]: one bad field makes the whole unit unsound, because counters and means belong
        # together.
        rows = torch.stack([state[name].to(device=device, dtype=torch.float32) for name in _FIELDS])
        is_sound = ((rows >= 0) & torch.isfinite(rows)).all(dim=0)
        return cls(*(row.clone() for row in torch.where(is_sound, rows, 0.0)))

    def _corrected(self, name: str, momentum: float, min_steps: int, min_samples: int) -> FloatArray:
        counter = _MEANS[name]
        samples, steps = getattr(self, counter).double(), getattr(self, counter.replace("samples", "steps"))
        # Neither bound implies the other: with a long stride a few samples stand for many steps.
        measured = (samples >= max(min_samples, 1)) & (steps >= min_steps)
        # A mean that began at 0 is short by the factor 1 - momentum^samples.
        mean = getattr(self, name).double() / _warmth(samples, momentum)
        corrected: FloatArray = torch.where(measured, mean, torch.nan).cpu().numpy()
        return corrected


def _warmth(samples: Tensor, momentum: float) -> Tensor:
    """The share that a running mean of so many updates has left its start behind; 1 for none."""
    return torch.where(samples > 0, 1.0 - momentum**samples, 1.0)
