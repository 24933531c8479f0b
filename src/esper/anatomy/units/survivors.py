"""What a cut leaves of every tensor of a graph, activations as well as parameters: it follows from labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from esper.anatomy.labels import Flow, resolve, varying_axes
from esper.anatomy.units.propagate import Propagation
from esper.arrays import BoolArray, IntArray
from esper.errors import SurgeryError

Left = tuple[BoolArray, ...]
"""For every axis of one tensor, which of its coordinates stay."""


class Survivors:
    """Which coordinates of every tensor of a traced graph stay when some parameter coordinates go.

    Args:
        found: labels of the graph.
        removed: coordinates that go, by tensor and axis.

    Raises:
        SurgeryError: in this graph other coordinates would have to go along.
    """

    def __init__(self, found: Propagation, removed: Mapping[tuple[str, int], IntArray]) -> None:
        missing = sorted({name for name, _ in removed} - found.axes.keys())
        if missing:
            raise SurgeryError(
                f"This anatomy is of another network: its program has no tensor {missing[0]!r}. Inspect the "
                "network again and use the new anatomy."
            )
        self._found = found
        self._gone = _gone_labels(found, removed)
        # In both directions: what goes here is exactly what was asked for, on every axis.
        for name, axes in found.axes.items():
            for axis, labels in enumerate(axes):
                goes = np.flatnonzero(self._gone[labels.numpy()])
                if not np.array_equal(goes, removed.get((name, axis), goes[:0])):
                    raise SurgeryError(
                        f"This cut does not fit the network's program: axis {axis} of {name} would lose "
                        f"{goes.size} coordinates there. Inspect the network again with the same loss and "
                        "sample, and choose from that anatomy."
                    )

    def of(self, node: fx.Node) -> list[Left]:
        """What is left of every tensor that a node gives: one entry per tensor.

        Raises:
            SurgeryError: what is left has no rectangular shape, or differs between two runs of one body.
        """
        runs = [
            [self._left(leaf, node) for leaf in pytree.tree_leaves(value, is_leaf=_is_flow) if _is_flow(leaf)]
            for value in self._found.values.get(node, [])
        ]
        first = runs[0] if runs else []
        for other in runs[1:]:
            if not _equal(first, other):
                raise SurgeryError(f"{node.name} is run twice and would have to lose different parts.")
        return first

    def of_statistics(self, graph: fx.Graph) -> dict[str, list[tuple[int, Tensor]]]:
        """By node of a graph: what is left of the axes that its normalization runs over, where they lose."""
        left: dict[str, list[tuple[int, Tensor]]] = {}
        nodes = {node.name: node for node in graph.nodes}
        for name, axis in sorted({(coupled.node, coupled.axis) for coupled in self._found.notes.coupled}):
            stays = self.of(nodes[name].args[0])[0][axis]
            if not stays.all():
                left.setdefault(name, []).append((axis, torch.from_numpy(np.flatnonzero(stays))))
        return left

    def _left(self, flow: Flow, node: fx.Node) -> Left:
        stays = [np.ones(size, np.bool_) for size in flow.shape]
        for layer in flow.layers:
            gone = self._gone[layer.numpy()]
            if not gone.any():
                continue
            # What goes must be whole slices and nothing else, or no rectangle is left.
            covered = np.zeros_like(gone)
            for axis in varying_axes(layer):
                others = tuple(n for n in range(gone.ndim) if n != axis)
                slices = gone.all(axis=others, keepdims=True)
                covered |= slices
                stays[axis] &= ~slices.ravel()
            if not np.array_equal(covered, gone):
                raise SurgeryError(f"What the cut leaves of {node.name} is not rectangular.")
        return tuple(stays)


def _gone_labels(found: Propagation, removed: Mapping[tuple[str, int], IntArray]) -> BoolArray:
    """For every label whether it goes; a conjunction goes when all that it stands for go."""
    of = resolve(found.space).of
    gone = np.zeros(of.size, np.bool_)  # by class
    for (name, axis), indices in removed.items():
        gone[of[found.axes[name][axis].numpy()[indices]]] = True
    # Class 0 is no identity; it never goes.
    gone[0] = False
    before = -1
    # One conjunction can complete another: again until no more go.
    while before != (before := int(gone.sum())):
        for ids, rows in found.space.conjunctions:
            whole = gone[of[rows.numpy()]].all(axis=1)
            gone[of[ids.numpy()[whole]]] = True
    labels: BoolArray = gone[of]
    return labels


def _is_flow(value: object) -> bool:
    return isinstance(value, Flow)


def _equal(first: list[Left], second: list[Left]) -> bool:
    pairs = [pair for a, b in zip(first, second, strict=True) for pair in zip(a, b, strict=True)]
    return all(np.array_equal(a, b) for a, b in pairs)
