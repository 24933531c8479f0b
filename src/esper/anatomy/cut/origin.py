"""Which unit of a changed network was which one before."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from esper.anatomy.structure import Anatomy, Kind
from esper.arrays import IntArray

Kept = Mapping[str, Mapping[int, Tensor]]
"""Coordinates that stayed, by tensor and axis, of every tensor that lost some."""


def origin_of(
    before: Anatomy, after: Anatomy, kept: Kept, former: Callable[[str], str] = lambda name: name
) -> IntArray:
    """For every unit of a network after a change, which one it was before: int [units after].

    -1 where a unit is new, or could not go before. Tensors tell, because names may change: a group is named
    after one of its tensors, and that may have gone with a layer. Where a layer tied units together that come
    apart without it, all of them were the one.

    Args:
        before: the anatomy before.
        after: the anatomy after.
        kept: what the change left of tensors.
        former: what a tensor of after was called before.
    """
    owners = _owners(before, kept)
    names = {alias: info.name for info in before.tensors for alias in (info.name, *info.aliases)}
    layers = {group.name: int(before.offsets[n]) for n, group in enumerate(before.groups)}
    origin = np.full(after.num_units, -1, np.int64)
    for number, group in enumerate(after.groups):
        span = after.unit_slice(number)
        if group.kind is Kind.LAYER:  # named after its own last weight
            origin[span] = layers.get(former(group.name), -1)
            continue
        for member in group.members:
            name = former(member.tensor)
            owner = owners.get((group.kind, names.get(name, name), member.axis))
            if owner is not None:
                # -1 where a coordinate was no unit's; any owner outweighs that. [units of the group]
                origin[span] = np.maximum(origin[span], owner[member.index].max(axis=1))
    return origin


def _owners(before: Anatomy, kept: Kept) -> dict[tuple[Kind, str, int], IntArray]:
    """The unit of every coordinate that is left of an axis, by kind: a head holds channels of its own."""
    shapes = {info.name: info.shape for info in before.tensors}
    owners: dict[tuple[Kind, str, int], IntArray] = {}
    for number, group in enumerate(before.groups):
        if group.kind is Kind.LAYER:
            continue
        units = before.offsets[number] + np.arange(group.width)
        for member in group.members:
            key = (group.kind, member.tensor, member.axis)
            owner = owners.setdefault(key, np.full(shapes[member.tensor][member.axis], -1, np.int64))
            owner[member.index] = units[:, None]
    # Along every axis as the change left it.
    for kind, name, axis in owners:
        if (stays := kept.get(name, {}).get(axis)) is not None:
            owners[kind, name, axis] = owners[kind, name, axis][stays.numpy()]
    return owners
