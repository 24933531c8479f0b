"""What the tracker knows when an analysis begins; it travels to the workers with the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from esper.anatomy.structure import FloatArray


@dataclass(frozen=True, eq=False)
class TrackedEvidence:
    """Scores of all units: arrays of shape [units], NaN unmeasured.

    Attributes:
        fisher: From sampled weight x gradient products; leads where the optimizer keeps no second moments.
        history: The importance rank that earlier analyses let expect, 0 to 1.
        weights: Signal name to weight, in this phase of the training.
        twin_samples: Held-out samples on which the analysis may measure every unit's effect on the loss.
        twin_flops: Work that this may take.
    """

    fisher: FloatArray
    history: FloatArray
    weights: Mapping[str, float]
    twin_samples: int = 0
    twin_flops: float = 0.0
