"""Batches whose samples have the targets of others."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from esper.batches.batch import sizes_of
from esper.batches.splitting import target_of, with_target


def with_targets_of(batch: Any, other: Any) -> Any | None:
    """A batch whose samples have the targets of another one, or each other's where the two are not alike.

    Args:
        batch: as a loader yields it.
        other: another one; where it is the same, half of the samples change places with the other half.

    Returns:
        None where it has no target, or only one sample.
    """
    target, given = target_of(batch), target_of(other)
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(target)):
        return None
    if batch is other or not _are_alike(target, given):
        sizes = sizes_of(batch)
        if len(sizes) != 1 or min(sizes) < 2:
            return None
        half = min(sizes) // 2
        given = pytree.tree_map(lambda leaf: _rolled(leaf, half), target)
    return with_target(batch, given)


def _rolled(leaf: Any, by: int) -> Any:
    return leaf.roll(by, 0) if isinstance(leaf, Tensor) and leaf.dim() else leaf


def _are_alike(one: Any, other: Any) -> bool:
    (ours, spec), (theirs, their_spec) = pytree.tree_flatten(one), pytree.tree_flatten(other)
    return spec == their_spec and all(map(_is_alike, ours, theirs))


def _is_alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other)
