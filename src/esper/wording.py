"""Numbers in sentences, written so that they can be compared or counted."""

from __future__ import annotations

import math
from collections.abc import Sequence

_LEAST, _MOST = 4, 12
"""Decimals."""


def alike(*values: float) -> list[str]:
    """Numbers of one kind with the same decimals: four, or as many more as show four digits of the largest.

    >>> alike(0.91, 0.9)
    ['0.9100', '0.9000']
    >>> alike(0.000254, 0.0000003)
    ['0.0002540', '0.0000003']
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    first = math.floor(math.log10(largest)) if largest else 0
    decimals = min(max(_LEAST, _LEAST - 1 - first), _MOST)
    return [f"{value:.{decimals}f}" for value in values]


def ranks(numbers: Sequence[int]) -> str:
    """Ranks of a training by their numbers, for the beginning of a sentence.

    >>> ranks([1])
    'Rank 1'
    >>> ranks([1, 2, 5])
    'Ranks 1, 2 and 5'
    """
    *others, last = map(str, numbers)
    return f"Ranks {', '.join(others)} and {last}" if others else f"Rank {last}"
