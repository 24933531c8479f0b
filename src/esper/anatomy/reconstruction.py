"""Least-squares reconstruction: layers that read removed units read their image in the units that stay.

A removed input is regressed on the inputs that are kept, over held-out calibration batches: x_r ~ x_k B. The
reader's weight then takes the removed part over, W_k + W_r B^T, which costs the least squared error at its
output, position by position, that any change of W_k along the channels can reach.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from esper.anatomy.masking import masked_axes, zero_masked
from esper.anatomy.structure import Anatomy, BoolArray, IntArray
from esper.anatomy.twin import Twin

RIDGE = 0.01
"""Share of the inputs' mean square on the diagonal: few samples must not be trusted in every direction."""

MAX_INPUTS = 8192
"""Widest layer that is reconstructed; its second moments are a matrix of this size."""

_INPUT_AXIS = 1
_aten = torch.ops.aten
_LINEAR = {_aten.linear.default}
_CONVOLUTIONS = {
    _aten.conv1d.default,
    _aten.conv2d.default,
    _aten.conv3d.default,
    _aten.conv1d.padding,
    _aten.conv2d.padding,
    _aten.conv3d.padding,
}
_GROUPS = 6
"""Position of the number of groups among a convolution's arguments."""


@dataclass(eq=False)
class _Reader:
    """A weight that reads units along its input axis, at one or several nodes, and what it reads there."""

    weight: str
    positions: list[int] = field(default_factory=list)
    moments: Tensor | None = None
    """Sum of products of inputs: shape [inputs, inputs]."""

    def look(self, axis: int) -> Callable[[Tensor], Tensor]:
        """A gate that only watches."""

        def seen(value: Tensor) -> Tensor:
            rows = value.detach().movedim(axis, -1).reshape(-1, value.shape[axis])
            product = rows.T @ rows
            self.moments = product.double() if self.moments is None else self.moments + product
            return value

        return seen


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
    axes = masked_axes(anatomy, after)
    gone_before = masked_axes(anatomy, before)
    going = {
        name: (np.setdiff1d(gone, gone_before.get((name, axis), np.zeros(0, np.int64))), gone)
        for (name, axis), gone in axes.items()
        if axis == _INPUT_AXIS
    }
    readers = _readers(twin, anatomy, {name for name, (new, _) in going.items() if new.size})
    gates = {(n, 0): reader.look(axis) for reader, axis in readers for n in reader.positions}
    if not gates:
        return {}
    with torch.no_grad():
        for batch in batches:
            twin.run(state, batch, gates)
        changes = {
            reader.weight: _taken_over(state[reader.weight], reader.moments, *going[reader.weight])
            for reader, _ in readers
            if reader.moments is not None
        }
    zero_masked(changes, axes)
    return changes


def _readers(twin: Twin, anatomy: Anatomy, weights: set[str]) -> list[tuple[_Reader, int]]:
    """The readers of these weights, each with the axis of its input that carries the units."""
    known = {alias: info.name for info in anatomy.tensors for alias in (info.name, *info.aliases)}
    found: dict[str, tuple[_Reader, int]] = {}
    odd: set[str] = set()
    for position, node in enumerate(twin.program.graph.nodes):
        for argument in node.all_input_nodes:
            name = known.get(twin.names.get(argument.name, ""))
            if name not in weights or name is None:
                continue
            axis = _input_axis(node, argument)
            if axis is None:
                odd.add(name)  # it also serves elsewhere, as a tied embedding does
            else:
                found.setdefault(name, (_Reader(name), axis))[0].positions.append(position)
    return [(reader, axis) for name, (reader, axis) in found.items() if name not in odd]


def _input_axis(node: fx.Node, weight: fx.Node) -> int | None:
    """Where the units are in what this node reads through `weight`; None if it is not understood."""
    if len(node.args) < 2 or node.args[1] is not weight or weight.meta["val"].shape[1] > MAX_INPUTS:
        return None
    if node.target in _LINEAR:
        return -1
    groups = node.args[_GROUPS] if len(node.args) > _GROUPS else 1
    return 1 if node.target in _CONVOLUTIONS and groups == 1 else None


def _taken_over(weight: Tensor, moments: Tensor, new: IntArray, gone: IntArray) -> Tensor:
    """The change of a weight [outputs, inputs, ...] that makes up for the inputs `new`."""
    kept = np.setdiff1d(np.arange(weight.shape[_INPUT_AXIS]), gone)
    k, r = torch.from_numpy(kept).to(weight.device), torch.from_numpy(new).to(weight.device)
    square = moments[k][:, k]
    square = square + RIDGE * square.diagonal().mean() * torch.eye(len(k), dtype=square.dtype).to(square)
    change = torch.zeros_like(weight)
    if not len(k) or not bool(square.diagonal().sum() > 0):
        return change
    image = torch.linalg.solve(square, moments[k][:, r]).to(weight.dtype)  # [kept, new]
    change[:, k] = torch.einsum("or...,kr->ok...", weight[:, r], image)
    return change
