"""Sums over the vectors that a layer reads, and the ridge with which they are best told from each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Shares of the inputs' mean square that are tried on the diagonal of a fit."""

MAX_TRIED = 2048
"""Widest layer for which they are tried; a wider one gets its number of inputs per vector."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over input vectors.

    Attributes:
        count: how many there were.
        total: their sum, shape [inputs].
        products: the sum of their products, shape [inputs, inputs].
    """

    count: int
    total: Tensor
    products: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Of vectors [count, inputs]."""
        return cls(len(rows), rows.sum(0).double(), (rows.T @ rows).double())

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    def spread(self, center: Tensor | None) -> Tensor:
        """Second moments per vector, around `center` if there is one: shape [inputs, inputs]."""
        square = self.products / self.count
        if center is None:
            return square
        # E[(x - c)(x - c)^T] = E[x x^T] - m c^T - c m^T + c c^T, with m the mean.
        across = torch.outer(self.mean, center)
        return square - across - across.T + torch.outer(center, center)


def best_ridge(halves: tuple[Moments, Moments], weight: Tensor, *, is_centered: bool) -> float:
    """The ridge with which inputs, each told from all others of one half, are best told in the other.

    Args:
        halves: what was seen.
        weight: the layer's weight [outputs, inputs, ...]; inputs that it reads strongly count more.
        is_centered: whether a constant costs nothing.
    """
    first, second = halves
    if min(first.count, second.count) == 0 or len(first.total) > MAX_TRIED:
        # Nothing to try it on, or too much to try: a small ridge that grows with the inputs per vector.
        return RIDGES[1] + len(first.total) / max(first.count + second.count, 1)
    # Both around the mean of the first half, as nothing else would be known of the second.
    center = first.mean if is_centered else None
    seen, unseen = first.spread(center), second.spread(center)
    # [inputs]: how strongly the layer reads each of them.
    strength = weight.detach().double().square().movedim(1, 0).flatten(1).sum(1)
    mean = float(seen.diagonal().mean())
    if not mean > 0.0:
        return RIDGES[1]
    identity = torch.eye(len(seen), dtype=seen.dtype, device=seen.device)

    @cache
    def error(place: int) -> float:
        root, failed = torch.linalg.cholesky_ex(seen + RIDGES[place] * mean * identity)
        if bool(failed):  # rounding has left it without a root
            return math.inf
        inverse = torch.cholesky_inverse(root)
        # With P the inverse, what is left of input i when it is told from all others is (P x)_i / P_ii. Its
        # mean square in the other half, with second moments U, is (P U P)_ii / P_ii^2.
        left = ((unseen @ inverse) * inverse).sum(0) / inverse.diagonal().square()  # of each input: a square
        return float((left * strength).sum())

    return RIDGES[_lowest(error, len(RIDGES))]


def _lowest(error: Callable[[int], float], count: int) -> int:
    """Downhill from the middle: the error falls to its least and rises again, and each look is dear."""
    place = count // 2
    while True:
        nearby = range(max(place - 1, 0), min(place + 2, count))
        # In a tie the nearer place wins: the walk comes to an end.
        best = min(nearby, key=lambda other: (error(other), abs(other - place)))
        if best == place:
            return place
        place = best
