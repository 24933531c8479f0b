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


def reconstruction(
    twin: Twin,
    anatomy: Anatomy,
    state: Mapping[str, Tensor],
    before: BoolArray,
    after: BoolArray,
    batches: Sequence[Any],
) -> dict[str, Tensor]:
    """What to add to the weights of linear layers and convolutions that read units which are about to go.

    Other readers (matrix products written by hand, grouped convolutions) are left as they are.

    Args:
        twin: the network's graph.
        anatomy: its anatomy.
        state: its tensors by name, masked as `before` says.
        before: units that are left now, shape [units].
        after: units that shall be left, shape [units].
        batches: held-out batches that the twin can take.

    Returns:
        By parameter name; zero wherever `after` masks. Empty if nothing that is understood reads the units.
    """
    readers = readers_of(twin, anatomy, set(_going(anatomy, before, after)))
    watch(twin, state, readers, batches)
    return taken_over(anatomy, state, before, after, readers)


def taken_over(
    anatomy: Anatomy,
    state: Mapping[str, Tensor],
    before: BoolArray,
    after: BoolArray,
    readers: Sequence[Reader],
) -> dict[str, Tensor]:
    """The same from readers that were watched under `before`."""
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
    spread, mean = reader.spread()
    square = spread[k][:, k]
    change = torch.zeros_like(weight)
    image = torch.zeros(len(k), len(r), dtype=spread.dtype, device=spread.device)
    # With nothing kept, or nothing but zeros there, the image stays zero.
    if len(k) and bool(square.diagonal().sum() > 0):
        identity = torch.eye(len(k), dtype=square.dtype, device=square.device)
        # (S_kk + ridge I) B = S_kr, with the ridge relative to the inputs' mean square.
        root = torch.linalg.cholesky(square + reader.ridge * square.diagonal().mean() * identity)
        image = torch.cholesky_solve(spread[k][:, r], root)  # [kept, new]
        # W_r B^T, the same for every tap of a kernel.
        change[:, k] = torch.einsum("or...,kr->ok...", weight[:, r], image.to(weight.dtype))
    if reader.bias is None or not reader.is_constant_free:
        return {reader.weight: change}
    # c is the mean of what goes less the image of the mean of what stays. All taps of a kernel see that
    # constant.
    constant = (mean[r] - mean[k] @ image).to(weight.dtype)
    whole = weight[:, r].flatten(2).sum(2) if weight.dim() > 2 else weight[:, r]
    return {reader.weight: change, reader.bias: whole @ constant}
