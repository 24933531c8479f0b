"""The sizes of inputs that a graph is right for: one number, or all that its code takes alike."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Sizes = tuple[int | range, ...]
_ANY = range(sys.maxsize)


def sizes_for(value: Tensor, limits: Mapping[Any, Any]) -> Sizes:
    """Those of an input as it was traced.

    Args:
        value: the input, as the graph knows it.
        limits: least and most of every symbol (`ExportedProgram.range_constraints`): code that does something
            else with longer inputs is followed for those like the traced one.
    """
    return tuple(_size(axis, size, limits) for axis, size in enumerate(value.shape))


def _size(axis: int, size: int | torch.SymInt, limits: Mapping[Any, Any]) -> int | range:
    if not isinstance(size, torch.SymInt):
        return size
    if (known := size.node.maybe_as_int()) is not None:  # some stand for one number
        return int(known)
    limit = limits.get(size.node.expr)
    if limit is None:
        return _ANY
    # The exporter takes two samples at least for granted, and what it follows is right for one as well.
    least = 0 if axis == 0 else _number(limit.lower)
    return range(least, min(_number(limit.upper), sys.maxsize - 1) + 1)


def _number(bound: Any) -> int:
    """A bound as a number; the largest there is for none."""
    return int(bound) if getattr(bound, "is_Integer", False) else sys.maxsize


def readable(shape: Sizes) -> str:
    """The sizes in words for people."""
    return f"[{', '.join(map(_readable, shape))}]"


def _readable(size: int | range) -> str:
    if isinstance(size, int):
        return str(size)
    return "any" if size.stop >= sys.maxsize else f"{size.start} to {size.stop - 1}"


def fits(leaf: Any, shape: Sizes) -> bool:
    """Whether this is a tensor of such sizes."""
    if not isinstance(leaf, Tensor) or leaf.dim() != len(shape):
        return False
    return all(
        size == wanted if isinstance(wanted, int) else size in wanted
        for wanted, size in zip(shape, leaf.shape, strict=True)
    )
