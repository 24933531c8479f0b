"""Least-squares reconstruction: layers that read removed units read their image in the units that stay.

A removed input is regressed on the inputs that are kept, over held-out calibration batches: x_r ~ x_k B + c.
The reader's weight then takes the removed part over, W_k + W_r B^T, and its bias, if it has one, the
constant W_r c. That costs the least squared error at its output, position by position, that any change of
W_k along the channels can reach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.anatomy.mend.readers import INPUT_AXIS, Reader, readers_of, watch
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import Twin
from esper.anatomy.units import masked_axes, zero_masked
from esper.arrays import BoolArray, IntArray


class Reconstruction:
    """Makes up for what goes, for any number of masks that are tried on the same network.

    What layers read is watched once: on the first mask, for all that lose an input under it.
    """

    def __init__(
        self,
        twin: Twin,
        anatomy: Anatomy,
        state: Mapping[str, Tensor],
        before: BoolArray,
        batches: Sequence[Any],
    ) -> None:
        """Of one network.

        Args:
            twin: the network's graph.
            anatomy: its anatomy.
            state: its tensors by name, masked as `before` says.
            before: units that are left now, shape [units].
            batches: held-out batches that the twin can take.
        """
        self._twin, self._anatomy, self._state, self._before = twin, anatomy, state, before
        self._batches = batches
        self._watched: set[str] = set()
        self._readers: list[Reader] = []

    def changes(self, after: BoolArray) -> dict[str, Tensor]:
        """What to add to the weights of linear layers and convolutions that read units about to go.

        Other readers (matrix products written by hand, grouped convolutions) are left as they are.

        Args:
            after: units that shall be left, shape [units].

        Returns:
            By parameter name; zero wherever `after` masks. Empty if nothing that is understood reads the
            units.
        """
        new = set(_going(self._anatomy, self._before, after)) - self._watched
        readers = readers_of(self._twin, self._anatomy, new)
        watch(self._twin, self._state, readers, self._batches)
        self._watched |= new
        self._readers += readers
        return taken_over(self._anatomy, self._state, self._before, after, self._readers)


def taken_over(
    anatomy: Anatomy,
    state: Mapping[str, Tensor],
    before: BoolArray,
    after: BoolArray,
    readers: Sequence[Reader],
) -> dict[str, Tensor]:
    """What `Reconstruction.changes` gives, from readers that were watched under `before`."""
    axes, going = masked_axes(anatomy, after), _going(anatomy, before, after)
    changes: dict[str, Tensor] = {}
    for reader in readers:
        if reader.weight in going and reader.is_usable:
            changes |= _change(reader, state, *going[reader.weight])
    zero_masked(changes, axes)
    return changes


def _going(anatomy: Anatomy, before: BoolArray, after: BoolArray) -> dict[str, tuple[IntArray, IntArray]]:
    """By weight: the inputs that are about to go, and all that are gone then."""
    gone_before, none = masked_axes(anatomy, before), np.zeros(0, np.int64)
    going = {
        name: (np.setdiff1d(gone, gone_before.get((name, axis), none)), gone)
        for (name, axis), gone in masked_axes(anatomy, after).items()
        if axis == INPUT_AXIS
    }
    return {name: (new, gone) for name, (new, gone) in going.items() if new.size}


def _change(reader: Reader, state: Mapping[str, Tensor], new: IntArray, gone: IntArray) -> dict[str, Tensor]:
    """The change of a weight [outputs, inputs, ...] and its bias that makes up for the inputs `new`."""
    weight = state[reader.weight]
    # Inputs k that are kept and r that go now; those that went before are in neither.
    kept = np.setdiff1d(np.arange(weight.shape[INPUT_AXIS]), gone)
    k, r = torch.from_numpy(kept).to(weight.device), torch.from_numpy(new).to(weight.device)
    is_free, seen = reader.is_constant_free, reader.seen
    image = seen.image(k, r, reader.ridge, is_centered=is_free)  # [kept, new]
    change = torch.zeros_like(weight)
    if len(k):
        # W_r B^T, the same for every tap of a kernel.
        change[:, k] = torch.einsum("or...,kr->ok...", weight[:, r], image.to(weight.dtype))
    if reader.bias is None or not is_free:
        return {reader.weight: change}
    # c is the mean of what goes less the image of the mean of what stays. All taps of a kernel see that
    # constant.
    constant = (seen.mean[r] - seen.mean[k] @ image).to(weight.dtype)
    whole = weight[:, r].flatten(2).sum(2) if weight.dim() > 2 else weight[:, r]
    return {reader.weight: change, reader.bias: whole @ constant}
