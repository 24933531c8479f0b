"""Numbers in sentences, written so that they can be compared."""

from __future__ import annotations

import math

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
