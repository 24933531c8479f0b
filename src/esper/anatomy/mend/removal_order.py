"""The order in which a group's units can go if all that read them make up for them as well as they can.

Removing input r from a layer that reads y = W x costs, once the other inputs have taken over what they
can, |W_r|^2 / (S^-1)_rr of output variance, where S are the second moments of x; for a block of inputs the
trace of W_B (S^-1)_BB^-1 W_B^T. The cheapest units go first, W and S^-1 follow, and the rest is judged anew.

Source: Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon" (1992), in
the layer-wise form of Frantar and Alistarh, "Optimal Brain Compression" (2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from esper.anatomy.mend.moments import factored
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
    parameters = {info.name for info in anatomy.tensors if info.is_parameter}
    reads = [m for m in anatomy.groups[group].members if m.role == "consumer" and m.tensor in parameters]
    asked = {m.tensor for m in reads}
    watched = {reader.weight: reader for reader in readers if reader.weight in asked and reader.is_usable}
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
    """What one reader would lose, as units go: its weight, and what is known of its inputs' second moments.

    Attributes:
        weight: shape [inputs, outputs x taps]; it follows what goes.
        units: places of each unit's inputs, shape [units, inputs each].
        blocks: of the inverse second moments, those of each unit; they follow what goes. Shape
            [units, inputs each, inputs each].
        scale: over the whole variance at the outputs.
    """

    def __init__(self, reader: Reader, weight: Tensor, index: IntArray, gone: IntArray) -> None:
        # The inputs that are left; `units` are places among these from here on.
        inputs = np.setdiff1d(np.arange(weight.shape[INPUT_AXIS]), gone)
        chosen = torch.from_numpy(inputs).to(weight.device)
        self.weight = weight.double().movedim(INPUT_AXIS, 0).flatten(1)[chosen]
        self.units = torch.from_numpy(np.searchsorted(inputs, index)).to(weight.device)
        self._inverse: _Inverse = _inverse_of(reader, chosen)
        whole = self._inverse.variance(self.weight)
        self.scale = 1.0 / max(whole, 1e-30)
        self.blocks = self._inverse.blocks(self.units)
        # The inverse of what is left is the first one less a product of two thin matrices that grow with
        # every step, so nothing of the size of the whole inverse is ever written again.
        self._across = self.weight.new_zeros(len(inputs), 0)
        self._solutions = self.weight.new_zeros(0, len(inputs))

    def costs(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The share of the outputs' variance that removing each unit alone would cost: shape [units]."""
        rows = self.weight[self.units]  # [units, inputs each, outputs]
        # For one input |W_r|^2 / (S^-1)_rr, for a block the trace of W_B (S^-1)_BB^-1 W_B^T.
        if self.units.shape[1] == 1:
            squares = rows[:, 0].square().sum(1) / self.blocks[:, 0, 0].clamp_min(1e-30)
        else:
            lift = 1e-12 * torch.eye(self.units.shape[1], dtype=rows.dtype, device=rows.device)
            squares = (torch.linalg.solve(self.blocks + lift, rows) * rows).sum((1, 2))
        return (self.scale * squares).cpu().numpy()

    def remove(self, going: IntArray) -> None:
        """Lets the other inputs take over what these units carried."""
        inputs = self.units[torch.from_numpy(going).to(self.units.device)].flatten()
        # Gaussian elimination of the block: what is left of the inverse is the inverse of what is left (a
        # Schur complement), and the weights follow.
        across = self._inverse.columns(inputs) - self._across @ self._solutions[:, inputs]
        solution = torch.linalg.solve(across[inputs], across.T)  # [going, inputs]
        self.weight = torch.addmm(self.weight, solution.T, self.weight[inputs], alpha=-1.0)
        self.weight[inputs] = 0.0  # where rounding leaves a rest
        # Of every unit's block its own share of the same: [units, each, going] x [units, going, each].
        share = solution[:, self.units].movedim(0, 1)
        self.blocks = torch.baddbmm(self.blocks, across[self.units], share, alpha=-1.0)
        self._across = torch.cat([self._across, across], 1)
        self._solutions = torch.cat([self._solutions, solution])


class _Inverse(Protocol):
    """The inverse of second moments S with a ridge on their diagonal."""

    def columns(self, inputs: Tensor) -> Tensor:
        """Of some inputs: shape [all inputs, inputs]."""
        ...

    def blocks(self, units: Tensor) -> Tensor:
        """Those of each unit: shape [units, inputs each, inputs each]."""
        ...

    def variance(self, weight: Tensor) -> float:
        """At the outputs: the trace of W S W^T, with a weight of shape [inputs, outputs]."""
        ...


def _inverse_of(reader: Reader, chosen: Tensor) -> _Inverse:
    """Of what a reader has seen of the chosen inputs, with its ridge."""
    moments, is_free = reader.seen, reader.is_constant_free
    root = moments.root(moments.mean if is_free else None)
    if root is not None and len(root) < len(chosen):
        root = root[:, chosen]
        # A layer that was fed nothing but zeros has no scale; 1 makes its matrix regular.
        return _OfVectors(root, reader.ridge * float(root.square().sum(0).mean()) or 1.0)
    square = moments.block(chosen, chosen, is_centered=is_free)
    return _OfProducts(square, reader.ridge * float(square.diagonal().mean()) or 1.0)


class _OfProducts:
    """Written out; `square` is its own from now on."""

    def __init__(self, square: Tensor, ridge: float) -> None:
        self._inverse = torch.cholesky_inverse(factored(square, ridge))
        self._square = square

    def columns(self, inputs: Tensor) -> Tensor:
        return self._inverse[:, inputs]

    def blocks(self, units: Tensor) -> Tensor:
        return self._inverse[units[:, :, None], units[:, None, :]]

    def variance(self, weight: Tensor) -> float:
        return float(((self._square @ weight) * weight).sum())


class _OfVectors:
    """Of fewer vectors than inputs, by them alone: nothing has the size of the inputs times the inputs.

    With R of shape [vectors, inputs], S = R^T R and S^-1 = (I - Z^T Z) / ridge, where Z = L^-1 R and
    L L^T = R R^T + ridge I.
    """

    def __init__(self, root: Tensor, ridge: float) -> None:
        self._root, self._ridge = root, ridge
        gram = root @ root.T
        gram.diagonal().add_(ridge)
        lower = torch.linalg.cholesky(gram)
        self._told = torch.linalg.solve_triangular(lower, root, upper=False)

    def columns(self, inputs: Tensor) -> Tensor:
        made: Tensor = self._told.T @ self._told[:, inputs] / -self._ridge
        made[inputs, torch.arange(len(inputs), device=made.device)] += 1.0 / self._ridge
        return made

    def blocks(self, units: Tensor) -> Tensor:
        own = self._told[:, units].movedim(0, 1)  # [units, vectors, each]
        made: Tensor = torch.bmm(own.transpose(1, 2), own) / -self._ridge
        made.diagonal(dim1=1, dim2=2).add_(1.0 / self._ridge)
        return made

    def variance(self, weight: Tensor) -> float:
        seen, own = (self._root @ weight).square().sum(), weight.square().sum()
        return float(seen + self._ridge * own)
