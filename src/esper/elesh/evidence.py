"""What an analysis found out about every unit, as plain arrays that say what was *not* measured."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from esper.arrays import BoolArray, FloatArray, IntArray
from esper.errors import EvidenceError

_ARRAYS = ("screen", "loss_increase", "confidence", "taylor", "samples", "leaders")


class Tier(IntEnum):
    """How far an analysis came."""

    NONE = 0
    SCREEN = 1
    """Every unit scored from tracked statistics and weights."""
    TWIN = 2
    """Statistics measured on the twin."""
    ABLATION = 3
    """Units removed, one by one or the least important of a layer together, and the loss measured."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known about every unit of one network; NaN means unmeasured and is never read as zero.

    Attributes:
        anatomy_digest: `Anatomy.digest` of the network that was analyzed.
        screen: importance rank of every unit, 0 (least) to 1 (most important), shape [units].
        loss_increase: rise of the held-out loss when that unit alone is removed; or, where its layer was
            measured as a whole, by how much the loss changes when the unit goes after those of its layer
            that go before it. Shape [units]; NaN if not known.
        confidence: share of bootstrap resamples in which the unit stays below the cut, 0 to 1, shape [units].
        samples: how many samples the unit was judged on, shape [units]; 0 where it was not.
        taylor: exact first-order change of the loss on the twin, shape [units]; NaN where tier 2 did not run.
        leaders: the unit that stands in for it where its loss was measured so, -1 for none, shape [units].
        tier: how far the analysis came.
        is_partial: true if a part was lost or the deadline came first; what is missing is NaN.
        notes: what a reader of the decision should know (lost tasks, folded duplicates).
    """

    anatomy_digest: str
    screen: FloatArray
    loss_increase: FloatArray
    confidence: FloatArray
    samples: IntArray
    taylor: FloatArray
    leaders: IntArray
    tier: Tier = Tier.NONE
    is_partial: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = self.screen.shape
        for name in _ARRAYS:
            array = getattr(self, name)
            if array.shape != shape or array.ndim != 1:
                raise EvidenceError(
                    f"Evidence.{name} has shape {array.shape}, expected one number per unit: {shape}. "
                    "Fill units that were not measured with NaN (samples: 0)."
                )
        _refuse_outside(self.screen, "screen")
        _refuse_outside(self.confidence, "confidence")
        overflowed = np.flatnonzero(np.isinf(self.loss_increase))
        if overflowed.size:
            raise EvidenceError(
                f"Evidence.loss_increase is infinite for unit {overflowed[0]}: the loss without that unit "
                "overflowed. Record NaN (unmeasured), so that the unit stays."
            )

    @classmethod
    def unmeasured(cls, anatomy_digest: str, num_units: int) -> Evidence:
        """Evidence of nothing: the start to which measurements are added with `dataclasses.replace`."""
        unknown = np.full(num_units, np.nan)
        return cls(
            anatomy_digest,
            screen=unknown,
            loss_increase=unknown.copy(),
            confidence=unknown.copy(),
            samples=np.zeros(num_units, np.int64),
            taylor=unknown.copy(),
            leaders=np.full(num_units, -1, np.int64),
        )

    @property
    def num_units(self) -> int:
        return int(self.screen.size)

    @property
    def is_measured(self) -> BoolArray:
        """Units of which the rise of the loss is known, and how surely: shape [units]."""
        return np.isfinite(self.loss_increase) & np.isfinite(self.confidence)

    @property
    def tiers(self) -> IntArray:
        """How far each unit came, as numbers of `Tier`: shape [units]."""
        reached = (
            (Tier.SCREEN, np.isfinite(self.screen)),
            (Tier.TWIN, np.isfinite(self.taylor)),
            (Tier.ABLATION, np.isfinite(self.loss_increase) & (self.samples > 0)),
        )
        # Tiers ascend: a later one overwrites an earlier one.
        highest = np.zeros(self.num_units, np.int64)
        for tier, has in reached:
            highest[has] = int(tier)
        return highest

    def require_for(self, anatomy_digest: str, num_units: int) -> None:
        """Refuses evidence about another network.

        Raises:
            EvidenceError: it was measured on another structure or has another number of units.
        """
        if self.anatomy_digest != anatomy_digest or self.num_units != num_units:
            raise EvidenceError(
                f"This evidence is about network {self.anatomy_digest[:12]} with {self.num_units} units, "
                f"the plan for {anatomy_digest[:12]} with {num_units}. Analyze the present checkpoint again."
            )


def _refuse_outside(values: FloatArray, name: str) -> None:
    outside = (values < 0) | (values > 1)  # NaN compares false: unmeasured passes
    if outside.any():
        unit = int(np.flatnonzero(outside)[0])
        raise EvidenceError(
            f"Evidence.{name} of unit {unit} is {values[unit]}, expected a share from 0 to 1 (or NaN)."
        )
