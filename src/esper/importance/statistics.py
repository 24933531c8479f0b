"""What tracking remembers of every unit: running means on the device, updated without waiting for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper.anatomy.structure import FloatArray, IntArray
from esper.errors import EvidenceError

_FIELDS = ("square", "absolute", "samples", "steps")


@dataclass(eq=False)
class UnitStatistics:
    """Exponential running means of the per-step sums of weight x gradient: float32 [units] each.

    `square` and `absolute` start from zero and are corrected for it when they are read. `samples` counts
    the updates of each unit, `steps` the training steps that these stand for.
    """

    square: Tensor
    absolute: Tensor
    samples: Tensor
    steps: Tensor

    @classmethod
    def empty(cls, num_units: int, device: torch.device) -> UnitStatistics:
        return cls(*(torch.zeros(num_units, device=device) for _ in _FIELDS))

    @property
    def num_units(self) -> int:
        return self.square.numel()

    def update(
        self, sums: Tensor, has_gradient: Tensor, is_step: Tensor, momentum: float, stride: int
    ) -> None:
        """Takes in one sampled step, on the device only.

        Args:
            sums: The step's sum of weight x gradient for every unit: float32 [units].
            has_gradient: Units that took part in the step: float32 [units] of 0 and 1.
            is_step: 1 if the optimizer will really make the step, else 0: a float32 scalar on the device.
            momentum: Of the running means.
            stride: How many training steps this one stands for.
        """
        taken = has_gradient * (is_step * torch.isfinite(sums).all())
        sums = torch.nan_to_num(sums, nan=0.0, posinf=0.0, neginf=0.0)
        weight = taken * (1.0 - momentum)
        self.square.lerp_(sums.square(), weight)
        self.absolute.lerp_(sums.abs(), weight)
        self.samples.add_(taken)
        self.steps.add_(taken, alpha=stride)

    def taylor(self, momentum: float, min_steps: int, min_samples: int) -> FloatArray:
        """Root mean square of the loss's first-order change: shape [units], NaN where too little was seen."""
        return np.sqrt(self._corrected(self.square, momentum, min_steps, min_samples))

    def absolute_taylor(self, momentum: float, min_steps: int, min_samples: int) -> FloatArray:
        """Mean absolute first-order change of the loss: shape [units], NaN where too little was seen."""
        return self._corrected(self.absolute, momentum, min_steps, min_samples)

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
        found = {name: tuple(state[name].shape) if name in state else "missing" for name in _FIELDS}
        if any(shape != (num_units,) for shape in found.values()):
            raise EvidenceError(
                f"These are not the importance statistics of {num_units} units: {found}. They belong to "
                "another network or are damaged; start a new tracker; units stay unmeasured "
                "until it has seen enough."
            )
        rows = torch.stack([state[name].to(device=device, dtype=torch.float32) for name in _FIELDS])
        is_sound = ((rows >= 0) & torch.isfinite(rows)).all(dim=0)
        return cls(*torch.where(is_sound, rows, 0.0))

    def _corrected(self, mean: Tensor, momentum: float, min_steps: int, min_samples: int) -> FloatArray:
        samples = self.samples.double().cpu().numpy()
        measured = (samples >= max(min_samples, 1)) & (self.steps.double().cpu().numpy() >= min_steps)
        scale = 1.0 - momentum ** np.where(measured, samples, 1.0)
        return np.where(measured, mean.double().cpu().numpy() / scale, np.nan)
