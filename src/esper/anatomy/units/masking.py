"""Masking: zeroing every coordinate of a removed unit, which is what a cut must be equal to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from esper.anatomy.structure import Anatomy
from esper.arrays import BoolArray, IntArray


def masked_axes(anatomy: Anatomy, keep: BoolArray) -> dict[tuple[str, int], IntArray]:
    """The parameter coordinates to zero, by (parameter, axis).

    Buffers are left alone: they scale zeros. So are directions, which have no length at zero.
    """
    parameters = {info.name for info in anatomy.tensors if info.is_parameter}
    members = (member for group in anatomy.groups for member in group.members)
    directions = {(member.tensor, member.axis) for member in members if member.role == "direction"}
    removed = anatomy.removed_indices(keep)
    return {key: gone for key, gone in removed.items() if key[0] in parameters and key not in directions}


def zero_masked(tensors: Mapping[str, Tensor], axes: Mapping[tuple[str, int], IntArray]) -> None:
    """Sets the given coordinates to zero in place."""
    with torch.no_grad():
        for (name, axis), gone in axes.items():
            if name in tensors:
                value = tensors[name]
                whole = value.view(torch.uint8) if value.element_size() == 1 else value  # float8 has no fill
                whole.index_fill_(axis, torch.from_numpy(gone).to(value.device), 0)
