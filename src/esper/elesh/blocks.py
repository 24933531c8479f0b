"""Tier 2 for layers: what a block of the network does to its input, and what it would cost to skip it.

A block is a module that the network holds by a number (`layers.3`, `blocks.0`) and that turns one tensor into
one tensor. It can be skipped where both have one shape: whoever reads its output then reads its input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from esper.anatomy.structure import FloatArray
from esper.anatomy.twin import Gates, Twin

_TINY = 1e-30
_NUMBERED = re.compile(r"(?:^|\.)\d+$")


@dataclass(frozen=True, eq=False)
class BlockMeasures:
    """What was measured of one block.

    Attributes:
        name: the module's path.
        similarity: mean cosine of input and output, sample by sample, -1 to 1; NaN where shapes differ.
        gradient_flow: norm of the loss gradient at its input, as a multiple of that at its output.
        taylor: mean size over samples of the first-order change of the loss when it is skipped; NaN where
            it cannot be.
        skip_losses: exact rise of the loss on every batch when it is skipped; NaN where it cannot be.
        is_compatible: whether input and output have one shape.
    """

    name: str
    similarity: float
    gradient_flow: float
    taylor: float
    skip_losses: FloatArray
    is_compatible: bool


Places = list[tuple[int, int]]
"""Arguments of operators: (place in the graph, number of the argument)."""


@dataclass(frozen=True)
class Block:
    """Where a block reads its input, and where its output is read."""

    name: str
    reads: tuple[tuple[int, int], ...]
    is_read_at: tuple[tuple[int, int], ...]
    is_compatible: bool


def measure_blocks(
    twin: Twin, state: Mapping[str, Tensor], batches: Sequence[Any], *, skip: bool = True
) -> list[BlockMeasures]:
    """Measures every block with one input and one output; the others are not listed.

    Args:
        twin: the network with its loss.
        state: its tensors, with what is masked already set to zero.
        batches: held-out batches that the twin can take.
        skip: also measure the loss without each block: one more forward pass for each.
    """
    return [_measured(twin, state, batches, block, skip=skip) for block in blocks_of(twin)]


def blocks_of(twin: Twin) -> list[Block]:
    """The blocks of a graph that have one input and one output."""
    order = {node: position for position, node in enumerate(twin.program.graph.nodes)}
    inside: dict[str, list[fx.Node]] = {}
    for node in order:
        for path, _ in node.meta.get("nn_module_stack", {}).values():
            if node.op == "call_function" and _NUMBERED.search(path):
                inside.setdefault(path, []).append(node)
    found = []
    for path, members in inside.items():
        own = set(members)
        sources = dict.fromkeys(
            source for node in members for source in node.all_input_nodes if source not in own
        )
        inputs = [node for node in sources if node.name not in twin.names and _is_float(node)]
        outputs = [node for node in members if any(user not in own for user in node.users)]
        has_weights = any(node.name in twin.names for node in sources)
        if not has_weights or len(inputs) != 1 or len(outputs) != 1 or not _is_float(outputs[0]):
            continue
        reads = _places(order, inputs[0], [user for user in inputs[0].users if user in own])
        readers = [user for user in outputs[0].users if user not in own and user.op != "output"]
        later = _places(order, outputs[0], readers)
        if reads and later:
            same = inputs[0].meta["val"].shape == outputs[0].meta["val"].shape
            found.append(Block(path.removeprefix("model."), tuple(reads), tuple(later), same))
    return found


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def _places(order: Mapping[fx.Node, int], node: fx.Node, users: Sequence[fx.Node]) -> Places:
    """Where these users read a node; empty if one of them reads it in a way that cannot be watched."""
    places: Places = []
    for user in users:
        direct = [(order[user], n) for n, argument in enumerate(user.args) if argument is node]
        leaves = pytree.tree_leaves((user.args, user.kwargs))
        if user.op != "call_function" or len(direct) != sum(leaf is node for leaf in leaves):
            return []
        places += direct
    return places


def _measured(
    twin: Twin, state: Mapping[str, Tensor], batches: Sequence[Any], block: Block, *, skip: bool
) -> BlockMeasures:
    cosines, flows, changes, rises = [], [], [], []
    for batch in batches:
        watch = _Watch(block)
        loss = twin.run(state, batch, watch.gates())[0].reshape(())
        gradients = torch.autograd.grad(
            loss, [watch.read, watch.made], allow_unused=True, materialize_grads=True
        )
        flows.append(float(gradients[0].norm() / gradients[1].norm().clamp_min(_TINY)))
        if not block.is_compatible:
            continue
        before, after = watch.read.detach().flatten(1), watch.made.detach().flatten(1)
        cosines.append(float(torch.cosine_similarity(before, after, dim=1).mean()))
        changes.append(float(((before - after) * gradients[1].flatten(1)).sum(1).abs().sum()))
        if skip:
            with torch.no_grad():
                without = twin.run(state, batch, watch.skipping())[0]
            rises.append(float(without - loss.detach()))
    return BlockMeasures(
        block.name,
        _mean(cosines),
        _mean(flows),
        _mean(changes),
        np.array(rises or [np.nan] * len(batches), np.float64),
        block.is_compatible,
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


class _Watch:
    """Holds on to what goes into a block and what comes out of it while the graph runs."""

    def __init__(self, block: Block) -> None:
        self.read: Tensor = torch.empty(0)
        self.made: Tensor = torch.empty(0)
        self._block = block

    def gates(self) -> Gates:
        """For a run that leaves everything as it is."""
        return {
            **dict.fromkeys(self._block.reads, self._take),
            **dict.fromkeys(self._block.is_read_at, self._give),
        }

    def skipping(self) -> Gates:
        """For a run in which the block's input takes the place of its output; after one with `gates`."""
        return dict.fromkeys(self._block.is_read_at, lambda _: self.read.detach().clone())

    def _take(self, value: Tensor) -> Tensor:
        if not self.read.requires_grad:  # the first of several operators that read it
            self.read = value.detach().requires_grad_()
        return self.read

    def _give(self, value: Tensor) -> Tensor:
        self.made = value
        return value
