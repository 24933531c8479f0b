"""Which unit is which after a cut: old and new numbers, and masks carried over."""

from __future__ import annotations

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, IntArray


def numbers_after(before: Anatomy, keep: BoolArray, without_layers: Anatomy, after: Anatomy) -> IntArray:
    """For every unit from before a cut its number after it, or -1: shape [units before].

    Args:
        before: the network.
        keep: units that stayed, shape [units before].
        without_layers: the network without the layers that went, and otherwise whole; `before` if none did.
        after: the network as the cut left it.
    """
    if without_layers is before:
        return _narrowed(before, keep, after)
    old = _old_numbers(before, without_layers)
    known = np.flatnonzero(old >= 0)
    last = _narrowed(without_layers, carried_over(before, keep, without_layers), after)
    numbers = np.full(before.num_units, -1, np.int64)
    numbers[old[known]] = last[known]
    return numbers


def carried_over(before: Anatomy, keep: BoolArray, without_layers: Anatomy) -> BoolArray:
    """A mask in the numbers of the network without some layers: shape [units there]."""
    old = _old_numbers(before, without_layers)
    return np.append(keep, True)[old]  # the last entry serves units that could not go before (-1)


def mask_after(
    before: Anatomy, keep: BoolArray, masked: BoolArray, without_layers: Anatomy, after: Anatomy
) -> BoolArray:
    """What stays masked after a cut: shape [units after].

    A layer can tie units together, which come apart when it goes: all parts of a masked one are masked.

    Args:
        before: the network.
        keep: units that stayed, masked or not, shape [units before].
        masked: the mask from before the cut, shape [units before].
        without_layers: as for `numbers_after`.
        after: the network as the cut left it.
    """
    if without_layers is before:
        return renumbered(masked, _narrowed(before, keep, after), after.num_units)
    left = carried_over(before, keep, without_layers)
    still = carried_over(before, masked, without_layers)
    return renumbered(still, _narrowed(without_layers, left, after), after.num_units)


def renumbered(keep: BoolArray, numbers: IntArray, num_units: int) -> BoolArray:
    """A mask about the network before a cut, in the numbers of after it: shape [`num_units`]."""
    left = np.ones(num_units, dtype=np.bool_)
    gone = numbers[~keep]
    left[gone[gone >= 0]] = False
    return left


def _narrowed(before: Anatomy, keep: BoolArray, after: Anatomy) -> IntArray:
    """Numbers where layers stay and groups keep name and order."""
    numbers = np.full(before.num_units, -1, np.int64)
    starts = {group.name: int(after.offsets[n]) for n, group in enumerate(after.groups)}
    widths = {group.name: group.width for group in after.groups}
    for number, group in enumerate(before.groups):
        span = before.unit_slice(number)
        left = np.flatnonzero(keep[span]) + span.start
        if widths.get(group.name) == left.size:
            numbers[left] = starts[group.name] + np.arange(left.size)
    return numbers


def _old_numbers(before: Anatomy, after: Anatomy) -> IntArray:
    """For every unit of a network that has lost layers only: its number from before, or -1.

    Groups may have changed their names with the layer that they were named after, and no coordinate has
    changed its place: the tensors tell.
    """
    owners: dict[tuple[str, int], IntArray] = {}
    shapes = {info.name: info.shape for info in before.tensors}
    layers = {group.name: int(before.offsets[n]) for n, group in enumerate(before.groups)}
    for number, group in enumerate(before.groups):
        for member in () if before.is_layer[before.offsets[number]] else group.members:
            axis = (member.tensor, member.axis)
            owner = owners.setdefault(axis, np.full(shapes[member.tensor][member.axis], -1, np.int64))
            owner[member.index] = (before.offsets[number] + np.arange(group.width))[:, None]
    old = np.full(after.num_units, -1, np.int64)
    for number, group in enumerate(after.groups):
        span = after.unit_slice(number)
        if after.is_layer[span.start]:
            old[span] = layers.get(group.name, -1)
            continue
        for member in group.members:
            found = owners.get((member.tensor, member.axis))
            if found is not None:
                old[span] = np.maximum(old[span], found[member.index].max(axis=1))
    return old
