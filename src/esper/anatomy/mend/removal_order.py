"""The order in which a group's units can go if all that read them make up for them as well as they can.

Removing input r from a layer that reads y = W x costs, once the other inputs have taken over what they
can, |W_r|^2 / (S^-1)_rr of output variance, where S are the second moments of x; for a block of inputs the
trace of W_B (S^-1)_BB^-1 W_B^T. The cheapest units go first, W and S^-1 follow, and the rest is judged anew.

Source: Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon" (1992), in
the layer-wise form of Frantar and Alistarh, "Optimal Brain Compression" (2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from esper.anatomy.mend.readers import INPUT_AXIS, Reader
from esper.anatomy.structure import Anatomy
from esper.arrays import BoolArray, IntArray

_STEPS = 64
"""Units go in so many steps; within one they are taken to be independent."""


def elimination(
    anatomy: Anatomy,
    group: int,
    state: Mapping[str, Tensor],
    readers: Sequence[Reader],
    keep: BoolArray,
    count: int,
) -> IntArray | None:
    """The `count` units of a group to remove, in order: shape [count].

    Args:
        anatomy: the network.
        group: the number of the group.
        state: its tensors by name, masked as `keep` says.
        readers: layers that were watched under `keep`.
        keep: units that are left, shape [units].
        count: how many to order, fewer than are left.

    Returns:
        Numbers of units, the first to go first; None if something that reads them is not among the readers.
    """
    watched = {reader.weight: reader for reader in readers if reader.is_usable}
    parameters = {info.name for info in anatomy.tensors if info.is_parameter}
    reads = [m for m in anatomy.groups[group].members if m.role == "consumer" and m.tensor in parameters]
    if not reads or any(m.tensor not in watched or m.axis != INPUT_AXIS for m in reads):
        return None
    span = anatomy.unit_slice(group)
    left = np.flatnonzero(keep[span])
    gone = {key[0]: lost for key, lost in anatomy.removed_indices(keep).items() if key[1] == INPUT_AXIS}
    layers = [
        _Layer(watched[m.tensor], state[m.tensor], m.index[left], gone.get(m.tensor, np.zeros(0, np.int64)))
        for m in reads
    ]
    order: IntArray = left[_ordered(layers, left.size, count)] + span.start
    return order


def _ordered(layers: Sequence[_Layer], width: int, count: int) -> IntArray:
    """Positions among the units that are left, the first to go first."""
    alive = np.ones(width, np.bool_)
    order: list[IntArray] = []
    # Rounded up, so that no more steps than that are needed.
    step = max(1, -(-width // _STEPS))
    while count > 0:
        # Every layer's cost is a share of its own outputs' variance, so those of several can be added.
        cost = sum((layer.costs() for layer in layers), np.zeros(width))
        cost[~alive] = np.inf
        going = np.argsort(cost, kind="stable")[: min(step, count)]
        for layer in layers:
            layer.remove(going)
        alive[going] = False
        order.append(going)
        count -= going.size
    return np.concatenate([np.zeros(0, np.int64), *order])


class _Layer:
    """What one reader would lose, as units go: its weight and the inverse of its inputs' second moments."""

    def __init__(self, reader: Reader, weight: Tensor, index: IntArray, gone: IntArray) -> None:
        spread, _ = reader.spread()
        # The inputs that are left; `units` are places among these from here on.
        inputs = np.setdiff1d(np.arange(weight.shape[INPUT_AXIS]), gone)
        chosen = torch.from_numpy(inputs).to(spread.device)
        square = spread[chosen][:, chosen]
        # A layer that was fed nothing but zeros has no scale; 1 makes its matrix regular.
        ridge = reader.ridge * float(square.diagonal().mean()) or 1.0
        square = square + ridge * torch.eye(len(inputs), dtype=square.dtype, device=square.device)
        self.weight = weight.double().movedim(INPUT_AXIS, 0).flatten(1)[chosen]  # [inputs, outputs x taps]
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(square))
        # [units, inputs each]
        self.units = torch.from_numpy(np.searchsorted(inputs, index)).to(spread.device)
        # The whole variance at the outputs: the trace of W S W^T.
        whole = float(((square @ self.weight) * self.weight).sum())
        self.scale = 1.0 / max(whole, 1e-30)

    def costs(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The share of the outputs' variance that removing each unit alone would cost: shape [units]."""
        rows = self.weight[self.units]  # [units, inputs each, outputs]
        # For one input |W_r|^2 / (S^-1)_rr, for a block the trace of W_B (S^-1)_BB^-1 W_B^T.
        if self.units.shape[1] == 1:
            squares = rows[:, 0].square().sum(1) / self.inverse.diagonal()[self.units[:, 0]].clamp_min(1e-30)
        else:
            blocks = self.inverse[self.units[:, :, None], self.units[:, None, :]]
            blocks = blocks + 1e-12 * torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
            squares = (torch.linalg.solve(blocks, rows) * rows).sum((1, 2))
        return (self.scale * squares).cpu().numpy()

    def remove(self, going: IntArray) -> None:
        """Lets the other inputs take over what these units carried."""
        inputs = self.units[torch.from_numpy(going).to(self.units.device)].flatten()
        # Gaussian elimination of the block: what is left of the inverse is the inverse of what is left (a
        # Schur complement), and the weights follow.
        block = self.inverse[inputs][:, inputs]
        across = self.inverse[:, inputs]
        taken = torch.linalg.solve(block, across.T)  # [going, inputs]
        self.weight = self.weight - taken.T @ self.weight[inputs]
        self.inverse = self.inverse - across @ taken
        # Rounding leaves a rest where zeros belong.
        self.weight[inputs] = 0.0
        self.inverse[inputs] = 0.0
        self.inverse[:, inputs] = 0.0
