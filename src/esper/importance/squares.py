"""Scores in one pass over the weights: Fisher, and magnitude; what was not measured is NaN, never 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from esper.anatomy import Anatomy
from esper.arrays import FloatArray
from esper.importance.accumulate import UnitReducer, real_parts, stored_names
from esper.importance.scores import SecondMoments

_CPU = torch.device("cpu")
_BLOCK_ELEMENTS = 1 << 17
"""So many squares stay in the processor's cache until they have been added up."""

LetGo = Callable[[Tensor], None]


def _keep(_: Tensor) -> None:
    """Lets go of nothing."""


def fisher(
    anatomy: Anatomy, parameters: Mapping[str, Tensor], moments: SecondMoments, let_go: LetGo = _keep
) -> FloatArray:
    """Sum of w^2 * E[g^2] over each unit's producers: the curvature of the loss along what makes the unit.

    Producers alone rank units better than all that a unit runs through (docs/importance.md). A unit is
    measured when all its producers have second moments; frozen ones leave their units NaN. Works on live
    tensors and on mapped files alike.

    Args:
        anatomy: The network's units.
        parameters: Parameter name (any of a tied one's) to tensor.
        moments: From `moments_from_optimizer` or `moments_from_state`.
        let_go: Called with every tensor that was read and is not needed any more.

    Returns:
        Shape [units].

    Raises:
        StructureError: A tensor does not have the shape that the anatomy states.

    Source: empirical Fisher screen over the optimizer's own state, docs/importance.md.
    """
    (scores,) = _read(anatomy, parameters, [_Fisher(anatomy, parameters, moments, let_go)], let_go)
    return scores


def magnitude(anatomy: Anatomy, parameters: Mapping[str, Tensor], let_go: LetGo = _keep) -> FloatArray:
    """Root mean square of each unit's producer rows, relative to its tensor's: shape [units].

    1 is an average row, so that layers of different scale can be compared. Biases and other vectors are
    left out. `let_go` is called with every tensor that was read.
    """
    (scores,) = _read(anatomy, parameters, [_Magnitude(anatomy, parameters)], let_go)
    return scores


def fisher_and_magnitude(
    anatomy: Anatomy, parameters: Mapping[str, Tensor], moments: SecondMoments, let_go: LetGo = _keep
) -> tuple[FloatArray, FloatArray]:
    """What `fisher` and `magnitude` give, for one pass over the weights instead of two."""
    # Magnitude comes first: the other turns the squares into what it adds up.
    sums: list[_Sum] = [_Magnitude(anatomy, parameters), _Fisher(anatomy, parameters, moments, let_go)]
    size, curvature = _read(anatomy, parameters, sums, let_go)
    return curvature, size


class _Sum(Protocol):
    """Adds up squared weights for every unit."""

    reducer: UnitReducer

    def reads(self, name: str) -> bool:
        """Whether it can use a parameter."""
        ...

    def take(self, name: str, square: Tensor, rows: slice) -> None:
        """Takes in the squares of some rows of a parameter; may change them in place."""
        ...

    def close(self, name: str) -> None:
        """Has seen all rows of a parameter."""
        ...

    def scores(self) -> FloatArray:
        """Of all units, when everything has been read: shape [units]."""
        ...


class _Fisher:
    """Squares times second moments. Nothing of a tensor's size is kept."""

    def __init__(
        self, anatomy: Anatomy, parameters: Mapping[str, Tensor], moments: SecondMoments, let_go: LetGo
    ) -> None:
        self.reducer = UnitReducer(anatomy, ("producer",))
        self._joined = self.reducer.begin(_device_of(parameters))
        self._moments = moments
        self._names = stored_names(anatomy, moments.values.keys())
        self._weights = stored_names(anatomy, parameters.keys())
        self._let_go = let_go

    def reads(self, name: str) -> bool:
        return name in self._names

    def take(self, name: str, square: Tensor, rows: slice) -> None:
        moment = self._moments.values[self._names[name]]
        square.mul_(real_parts(moment)[rows])
        self.reducer.take(self._joined, name, _real(square, moment), rows)

    def close(self, name: str) -> None:
        # The bias correction divides the sums instead of the moments.
        correction = self._moments.corrections[self._names[name]]
        self.reducer.scale(self._joined, name, 1.0 / correction if correction > 0 else math.nan)
        self._let_go(self._moments.values[self._names[name]])

    def scores(self) -> FloatArray:
        # With a producer missing, the sum would be a part of the truth.
        measured = self.reducer.covered(self._names.keys() & self._weights.keys())
        return _finite_or_nan(np.where(measured, _array(self.reducer.end(self._joined)), np.nan))


class _Magnitude:
    """Squares relative to the mean square of their tensor."""

    def __init__(self, anatomy: Anatomy, parameters: Mapping[str, Tensor]) -> None:
        self.reducer = UnitReducer(anatomy, ("producer",), min_dims=2)
        self._joined = self.reducer.begin(_device_of(parameters))
        self._weights = stored_names(anatomy, parameters.keys())
        self._parameters = parameters

    def reads(self, name: str) -> bool:
        return name in self._weights

    def take(self, name: str, square: Tensor, rows: slice) -> None:
        weight = self._parameters[self._weights[name]]
        self.reducer.take(self._joined, name, _real(square, weight), rows)

    def close(self, name: str) -> None:
        # Each tensor is brought to a mean square of 1 before a unit adds up rows of several.
        count = self._parameters[self._weights[name]].numel()
        mean = self.reducer.total(self._joined, name) / max(count, 1)
        self.reducer.scale(self._joined, name, 1.0 / mean.clamp_min(torch.finfo(self._joined.dtype).tiny))

    def scores(self) -> FloatArray:
        measured = self.reducer.covered(self._weights.keys())
        # [units]: from the sum to the mean over a unit's elements, and its root.
        squares, elements = _array(self.reducer.end(self._joined)), self.reducer.elements
        mean_square = np.divide(squares, elements, out=np.full(squares.shape, np.nan), where=measured)
        return _finite_or_nan(np.sqrt(mean_square))


def _read(
    anatomy: Anatomy, parameters: Mapping[str, Tensor], sums: Sequence[_Sum], let_go: LetGo
) -> list[FloatArray]:
    """Squares every parameter that somebody adds up, block by block, and lets it go."""
    weights = stored_names(anatomy, parameters.keys())
    room = _Room()
    for name in dict.fromkeys(name for each in sums for name in each.reducer.tensors):
        readers = [each for each in sums if name in each.reducer.tensors and each.reads(name)]
        if name not in weights or not readers:
            continue
        weight = parameters[weights[name]]
        readers[0].reducer.check(name, weight)
        for rows, square in room.squares(weight):
            for each in readers:
                each.take(name, square, rows)
        for each in readers:
            each.close(name)
        let_go(weight)
    return [each.scores() for each in sums]


class _Room:
    """Memory for squares, used again and again: asked for anew it would cost as much as the squares."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def squares(self, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """A few rows at a time with the squares of their elements, which hold until the next ones are made.

        In single precision at least, in which those of half precision do not underflow; of complex numbers,
        of both parts along a last axis.
        """
        parts = real_parts(weight.detach())
        dtype = torch.float64 if parts.dtype == torch.float64 else torch.float32
        # As many rows as make up a block, at least one.
        step = max(_BLOCK_ELEMENTS * len(parts) // max(parts.numel(), 1), 1)
        for first in range(0, len(parts), step):
            some = parts[first : first + step]
            square = self._for(some, dtype)
            if some.dtype == dtype:
                torch.mul(some, some, out=square)
            else:
                square.copy_(some).square_()
            yield slice(first, first + step), square

    def _for(self, some: Tensor, dtype: torch.dtype) -> Tensor:
        if not some.is_contiguous():  # where its elements lie otherwise, so should their squares
            return torch.empty_like(some, dtype=dtype)
        held = self._memory
        if held.dtype != dtype or held.device != some.device or held.numel() < some.numel():
            self._memory = held = torch.empty(some.numel(), dtype=dtype, device=some.device)
        return held[: some.numel()].view(some.shape)


def _real(square: Tensor, like: Tensor) -> Tensor:
    """Squares of both parts of complex numbers as one."""
    return square.sum(-1) if like.is_complex() else square


def _device_of(tensors: Mapping[str, Tensor]) -> torch.device:
    return next((tensor.device for tensor in tensors.values()), _CPU)


def _array(tensor: Tensor) -> FloatArray:
    return tensor.double().cpu().numpy()


def _finite_or_nan(scores: FloatArray) -> FloatArray:
    return np.where(np.isfinite(scores), scores, np.nan)
