"""What is measured of a network on held-out data before a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from esper.arrays import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class Measurement:
    """Quality of one network on one fixed set of held-out data; None is unmeasured.

    Attributes:
        correctness: quality of every sample, higher is better; 0 or 1 for right or wrong. Shape [samples].
        losses: mean loss of every chunk of samples, lower is better. Shape [chunks].
        gradient_flow: share of the surviving parameters where the loss gradient is not zero, 0 to 1.
        gradient_norm: norm of the loss gradient over the parameters that survive the mask under judgement.
        peak_bytes: most memory that measuring took, in bytes.
    """

    correctness: FloatArray | None = None
    losses: FloatArray | None = None
    gradient_flow: float | None = None
    gradient_norm: float | None = None
    peak_bytes: int | None = None


class Measure(Protocol):
    """Measures the twin under a mask; every call must use the same data in the same order.

    `keep` marks the units that are left, shape [units]; `survivors` marks those whose parameters
    the gradients cover, the same for both measurements of a pair, so that they can be compared.
    """

    def __call__(self, keep: BoolArray, survivors: BoolArray, /) -> Measurement: ...
