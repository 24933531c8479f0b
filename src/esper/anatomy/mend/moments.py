"""Sums over the vectors that a layer reads, what can be told from them, and how far that is trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

RIDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Shares of the inputs' mean square that are tried on the diagonal of a fit."""

MAX_TRIED = 2048
"""Widest layer for which they are tried; a wider one gets its number of inputs per vector."""

_DOUBLINGS = 30

_TRIED_INPUTS = 64
"""Inputs by which ridges are compared; of more than these, so many that lie evenly among them."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over input vectors; as long as these are fewer than the inputs, they stand for their products.

    A fit to few vectors then costs the square of their number, not the cube of the number of inputs.

    Attributes:
        count: how many there were.
        total: their sum, shape [inputs].
        vectors: they themselves, float64 [count, inputs]; None where they are not fewer than the inputs.
    """

    count: int
    total: Tensor
    vectors: Tensor | None
    _summed: Tensor | None = None

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Of vectors [count, inputs]."""
        if rows.dtype.itemsize < 4:  # sums of halves are no sums: few of their digits are left
            rows = rows.float()
        total = rows.sum(0).double()
        if len(rows) < rows.shape[1]:
            return cls(len(rows), total, rows.double())
        return cls(len(rows), total, None, (rows.T @ rows).double())

    def __add__(self, other: Moments) -> Moments:
        count, total = self.count + other.count, self.total + other.total
        if self.vectors is not None and other.vectors is not None and count < len(total):
            return Moments(count, total, torch.cat([self.vectors, other.vectors]))
        return Moments(count, total, None, self.products + other.products)

    @cached_property
    def products(self) -> Tensor:
        """The sum of their products, shape [inputs, inputs]."""
        if self._summed is not None:
            return self._summed
        if self.vectors is None:
            raise ValueError("moments hold either vectors or the sum of their products")
        return self.vectors.T @ self.vectors

    @cached_property
    def is_finite(self) -> bool:
        """Are all of them numbers?"""
        held = self.vectors if self._summed is None else self._summed
        return held is not None and bool(held.isfinite().all())

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

    def block(self, rows: Tensor, columns: Tensor, *, is_centered: bool) -> Tensor:
        """Second moments per vector of some inputs with others, a copy: shape [rows, columns]."""
        chosen = self.products[rows][:, columns].div_(self.count)
        # Around the mean: E[x y] - m n.
        return chosen.addr_(self.mean[rows], self.mean[columns], alpha=-1.0) if is_centered else chosen

    def root(self, center: Tensor | None) -> Tensor | None:
        """A factor R of the spread, R^T R, of shape [count, inputs]; None where the vectors are not held."""
        if self.vectors is None:
            return None
        moved = self.vectors if center is None else self.vectors - center
        return moved / math.sqrt(self.count)

    def image(self, kept: Tensor, gone: Tensor, ridge: float, *, is_centered: bool) -> Tensor:
        """How the inputs `gone` are best told from the inputs `kept`, by least squares: shape [kept, gone].

        That is B of x_gone ~ x_kept B (+ c, where `is_centered`), with so large a share of the mean square of
        what is kept as `ridge` says on the diagonal. Zero where nothing, or nothing but zeros, is kept.
        """
        image = self.total.new_zeros(len(kept), len(gone))
        if not len(kept):
            return image
        center = self.mean if is_centered else None
        factor = self.root(center)
        if factor is not None:
            told, others = factor[:, kept], factor[:, gone]
            mean = float(told.square().sum(0).mean())
            if not mean > 0:
                return image
            # B = R_k^T (R_k R_k^T + ridge I)^-1 R_g: the inverse has the size of the vectors.
            root = factored(told @ told.T, ridge * mean)
            return told.T @ torch.cholesky_solve(others, root)
        square = self.block(kept, kept, is_centered=is_centered)
        mean = float(square.diagonal().mean())
        if not mean > 0:
            return image
        root = factored(square, ridge * mean)  # (S_kk + ridge I) B = S_kg.
        return torch.cholesky_solve(self.block(kept, gone, is_centered=is_centered), root)


def factored(square: Tensor, ridge: float) -> Tensor:
    """The Cholesky factor L of a symmetric matrix, which gets the ridge on its diagonal: L L^T = S + ridge I.

    Sums in float32 leave errors that a small ridge may not outweigh; then it is doubled until it does. The
    matrix itself is changed.

    Raises:
        torch.linalg.LinAlgError: no ridge helps, as where something is no number.
    """
    square.diagonal().add_(ridge)
    for added in (ridge * 2.0**n for n in range(_DOUBLINGS)):
        root: Tensor
        root, failed = torch.linalg.cholesky_ex(square)
        if not int(failed):
            return root
        square.diagonal().add_(added)  # as much again as there is
    last: Tensor = torch.linalg.cholesky(square)
    return last


def _lifted(matrix: Tensor, ridge: float) -> Tensor:
    """The matrix with a ridge on its diagonal."""
    return matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)


def best_ridge(halves: tuple[Moments, Moments], weight: Tensor, *, is_centered: bool) -> float:
    """The ridge with which inputs, each told from all others of one half, are best told in the other.

    With P the inverse of the first half's second moments and the ridge, what is left of input i when it is
    told from all others is (P x)_i / P_ii, whose mean square in the other half, with second moments U, is
    (P U P)_ii / P_ii^2.

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
    tried = torch.arange(0, len(first.total), -(-len(first.total) // _TRIED_INPUTS), device=weight.device)
    # [tried]: how strongly the layer reads each of them.
    strength = weight.detach()[:, tried].double().square().movedim(1, 0).flatten(1).sum(1)
    roots = first.root(center), second.root(center)
    if roots[0] is not None and roots[1] is not None:
        mean, errors = _errors_by_vectors(roots[0], roots[1], tried)
    else:
        mean, errors = _errors_by_inputs(first.spread(center), second.spread(center), tried)
    if not mean > 0.0:
        return RIDGES[1]

    @cache
    def error(place: int) -> float:
        return float((errors(RIDGES[place] * mean) * strength).sum())

    return RIDGES[_lowest(error, len(RIDGES))]


Errors = Callable[[float], Tensor]
"""For what is added to the diagonal: what is left of each input that is tried, as a mean square."""


def _errors_by_inputs(seen: Tensor, unseen: Tensor, tried: Tensor) -> tuple[float, Errors]:
    """Mean square of the inputs, and the errors from both halves' second moments [inputs, inputs]."""
    own = torch.eye(len(seen), dtype=seen.dtype, device=seen.device)[:, tried]

    def errors(ridge: float) -> Tensor:
        root, failed = torch.linalg.cholesky_ex(_lifted(seen, ridge))
        if bool(failed):  # rounding has left it without a root
            return torch.full_like(own[0], math.inf)
        columns = torch.cholesky_solve(own, root)  # of P: [inputs, tried]
        left = ((unseen @ columns) * columns).sum(0)
        return left / (columns * own).sum(0).square()

    return float(seen.diagonal().mean()), errors


def _errors_by_vectors(seen: Tensor, unseen: Tensor, tried: Tensor) -> tuple[float, Errors]:
    """The same from factors of them [vectors, inputs], with inverses of the size of the vectors.

    P = (I - R^T (R R^T + ridge I)^-1 R) / ridge, with R the first factor.
    """
    gram, across = seen @ seen.T, unseen @ seen.T

    def errors(ridge: float) -> Tensor:
        root, failed = torch.linalg.cholesky_ex(_lifted(gram, ridge))
        if bool(failed):
            return seen.new_full(tried.shape, math.inf)
        told = torch.cholesky_solve(seen[:, tried], root)  # (R R^T + ridge I)^-1 R: [vectors, tried]
        # Of P Y^T, with Y the second factor, and of P itself, both times `ridge`: it falls out.
        left = unseen[:, tried] - across @ told
        own = 1.0 - (seen[:, tried] * told).sum(0)
        return left.square().sum(0) / own.square()

    return float(seen.square().sum(0).mean()), errors


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
