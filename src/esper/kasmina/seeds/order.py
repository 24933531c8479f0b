"""Whether positions of a network read only those before them, and whether they still do so with a seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

_TOLERANCE = 1e-5
"""Of the largest value: what is less is rounding."""


@dataclass(frozen=True)
class OneWay:
    """An axis of the output along which no position reads a later one, though later ones read it.

    Attributes:
        axis: of the output.
        first: so many positions come before those that are other ones in `later`.
        later: the batch with other values at its later positions.
    """

    axis: int
    first: int
    later: Any

    def holds(self, run: Callable[[Any], Tensor], batch: Any) -> bool:
        """Whether the first positions still answer alike to both batches."""
        plain, changed = (run(given).narrow(self.axis, 0, self.first) for given in (batch, self.later))
        return not _differ(plain, changed)


def one_way(run: Callable[[Any], Tensor], batch: Any) -> list[OneWay]:
    """The axes along which a network reads in one direction, found by changing one half of the positions.

    A network of whose positions none reads another has no direction.

    Args:
        run: the network, the same for the same batch.
        batch: one batch.
    """
    plain = run(batch)
    found = []
    for size in dict.fromkeys(plain.shape):
        first = size // 2
        if not first or not _has_axis(batch, size):
            continue
        later, earlier = _changed(batch, size, first, size), _changed(batch, size, 0, first)
        for_later, for_earlier = _answer(run, later), _answer(run, earlier)
        if (
            for_later is None
            or for_earlier is None
            or not plain.shape == for_later.shape == for_earlier.shape
        ):
            continue
        for axis in (axis for axis, length in enumerate(plain.shape) if length == size):
            looks_ahead = _differ(*(t.narrow(axis, 0, first) for t in (plain, for_later)))
            looks_back = _differ(*(t.narrow(axis, first, size - first) for t in (plain, for_earlier)))
            if looks_back and not looks_ahead:
                found.append(OneWay(axis, first, later))
    return found


def _answer(run: Callable[[Any], Tensor], batch: Any) -> Tensor | None:
    """What a network answers to a batch that nobody has made for it; None where it does not take it."""
    try:
        return run(batch)
    except Exception:  # noqa: BLE001 (a user's code; that it refuses what it is not meant for is an answer)
        return None


def _axis(tensor: object, size: int) -> int | None:
    """The first axis of a tensor that is so long, if it has others, too."""
    if not isinstance(tensor, Tensor) or tensor.dim() < 2 or size not in tensor.shape:
        return None
    return tensor.shape.index(size)


def _has_axis(batch: Any, size: int) -> bool:
    return any(_axis(leaf, size) is not None for leaf in pytree.tree_leaves(batch))


def _changed(batch: Any, size: int, start: int, stop: int) -> Any:
    """The batch with other values at these positions: of other samples, or else of one another."""

    def change(tensor: Tensor) -> Tensor:
        axis = _axis(tensor, size)
        if axis is None:
            return tensor
        part = tensor.narrow(axis, start, stop - start)
        other = part.roll(1, 0)  # in its own column, where a value surely is one that may stand there
        if other.equal(part):
            other = part.roll(1, axis)
        changed = tensor.clone()
        changed.narrow(axis, start, stop - start).copy_(other)
        return changed

    return pytree.tree_map_only(Tensor, change, batch)


def _differ(one: Tensor, other: Tensor) -> bool:
    """Whether two answers are different by more than rounding; what is no number tells nothing."""
    one, other = one.float(), other.float()
    limit = _TOLERANCE * float(one.abs().max())
    return float((one - other).abs().max()) > limit
