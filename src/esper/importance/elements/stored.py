"""What every store of element scores says beside them: whose elements they are, how far they can be off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper.errors import EvidenceError

SIZES = "sizes"
"""Name of the tensor that holds the number of elements of every parameter."""


@dataclass(frozen=True)
class ErrorBound:
    """How far a stored score can be from what was measured.

    Attributes:
        relative: as a share of the score, above or below.
        absolute: by how much more it can be too large; a score is never too small by it.
        confidence: probability, for one element, that the absolute bound holds.
    """

    relative: float = 0.0
    absolute: float = 0.0
    confidence: float = 1.0


def as_tensor(sizes: Mapping[str, int]) -> Tensor:
    """Parameter names and their numbers of elements as bytes, because a checkpoint holds tensors."""
    return torch.from_numpy(np.frombuffer(json.dumps(sizes).encode(), np.uint8).copy())


def sizes_in(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The inverse of `as_tensor`, from the state of a store.

    Raises:
        EvidenceError: the state does not say whose elements it holds.
    """
    if SIZES not in state:
        raise EvidenceError(
            "The checkpoint holds scores of elements, but not whose they are: it was written by an earlier "
            "version. Let the run go on to its next checkpoint, which says it."
        )
    sizes: dict[str, int] = json.loads(state[SIZES].cpu().numpy().tobytes())
    return sizes
