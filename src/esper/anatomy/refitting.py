"""Refitting: layers give, on what they are fed after a cut, what they gave before it.

`reconstruction` makes up for the inputs that a layer loses. What it cannot make up for reaches the layers
that follow, and grows. So the network of before and the masked one run side by side over the same batches,
node by node; every linear layer and convolution is fitted, by least squares with its own weight as the
prior, to what it gave before, on the inputs that all fitted layers above it now make.

Source: He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks" (2017), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.nn import functional as F

from esper.anatomy.masking import masked_axes, zero_masked
from esper.anatomy.readers import CONVOLUTIONS, INPUT_AXIS, Reader, readers_of
from esper.anatomy.structure import Anatomy, BoolArray
from esper.anatomy.twin import Twin

MAX_PATCH = 2304
"""Largest patch (inputs x taps) of a convolution that is fitted tap by tap; wider ones mix channels only."""

ROWS_PER_INPUT = 32
"""Input vectors that are enough for each input of a layer; of more a part is drawn."""

State = Mapping[str, Tensor]


def refitted(
    twin: Twin,
    anatomy: Anatomy,
    before: State,
    after: State,
    keep: BoolArray,
    batches: Sequence[Any],
    prior: float,
) -> dict[str, Tensor]:
    """The tensors of `after` with every layer fitted to what it gave under `before`.

    Running statistics are those of `before` and `after`; measure them anew afterwards.

    Args:
        twin: the network's graph.
        anatomy: its anatomy.
        before: the tensors that are to be imitated.
        after: tensors of the masked network.
        keep: its mask, bool [units].
        batches: batches that the twin can take.
        prior: how much the weight of `after` counts, as a share of the inputs' mean square.
    """
    parameters = {info.name for info in anatomy.tensors if info.is_parameter}
    readers = [r for r in readers_of(twin, anatomy, parameters) if len(r.positions) == 1]
    places = {reader.positions[0]: reader for reader in readers}
    axes = masked_axes(anatomy, keep)
    found = dict(after)
    streams = [_Stream(twin, before, after, batch) for batch in batches]
    with torch.no_grad():
        for position, node in enumerate(twin.program.graph.nodes):
            if node.op == "output":
                break
            reader = places.get(position)
            if reader is not None and any(stream.differs(node) for stream in streams):
                gone = torch.from_numpy(axes.get((reader.weight, INPUT_AXIS), np.zeros(0, np.int64)))
                rows = ROWS_PER_INPUT * found[reader.weight][0].numel() // len(streams)
                fit = _Fit(node, reader, before, found, gone, rows)
                for stream in streams:
                    fit.see(*stream.fed(node))
                new = fit.solved(prior)
                zero_masked(new, axes)
                found |= new
                for stream in streams:
                    stream.give(node, new, twin)
            for stream in streams:
                stream.step(node)
    return found


class _Stream:
    """One batch on its way through both networks."""

    def __init__(self, twin: Twin, before: State, after: State, batch: Any) -> None:
        self.before = fx.Interpreter(twin.program.graph_module)
        self.after = fx.Interpreter(twin.program.graph_module)
        for interpreter, state in ((self.before, before), (self.after, after)):
            interpreter.env = {}
            interpreter.args_iter = iter(twin.inputs(state, batch))

    def fed(self, node: fx.Node) -> tuple[Tensor, Tensor]:
        """What a layer is fed before and now."""
        source: Any = node.args[0]
        return self.before.env[source], self.after.env[source]

    def differs(self, node: fx.Node) -> bool:
        return not torch.equal(*self.fed(node))

    def give(self, node: fx.Node, new: Mapping[str, Tensor], twin: Twin) -> None:
        for source in node.all_input_nodes:
            name = twin.names.get(source.name)
            if name in new:
                self.after.env[source] = new[name]

    def step(self, node: fx.Node) -> None:
        for interpreter in (self.before, self.after):
            interpreter.env[node] = interpreter.run_node(node)
        for read in self.before.user_to_last_uses.get(node, []):
            for interpreter in (self.before, self.after):
                del interpreter.env[read]


class _Fit:
    """Least squares of one layer: what it gave before, by what it is fed now."""

    def __init__(
        self, node: fx.Node, reader: Reader, before: State, after: State, gone: Tensor, rows: int
    ) -> None:
        self.node, self.reader, self.rows = node, reader, rows
        self.wanted, self.own = before[reader.weight], after[reader.weight]
        self.bias = None if reader.bias is None else before[reader.bias]
        taps = self.own[0, 0].numel()
        self.is_by_patch = node.target in CONVOLUTIONS and self.own[0].numel() <= MAX_PATCH and _unfolds(node)
        left = torch.ones(self.own.shape[INPUT_AXIS], dtype=torch.bool).index_fill_(0, gone, False)
        self.left = left.repeat_interleave(taps if self.is_by_patch else 1)
        self.has_constant = reader.is_constant_free or (self.is_by_patch and self.bias is not None)
        self.count, self.sums = 0, (torch.zeros(()), torch.zeros(()))
        self.square, self.across = torch.zeros(()), torch.zeros(())

    def see(self, fed_before: Tensor, fed_now: Tensor) -> None:
        """Adds one batch of inputs to the moments."""
        old, new = (self._rows(value).double() for value in (fed_before, fed_now))
        if len(new) > self.rows:
            drawn = torch.randperm(len(new), generator=torch.Generator().manual_seed(0))[: self.rows]
            old, new = old[drawn], new[drawn]
        new = new[:, self.left]
        self.square, self.across = self.square + new.T @ new, self.across + new.T @ old
        self.sums = (self.sums[0] + old.sum(0), self.sums[1] + new.sum(0))
        self.count += len(new)

    def solved(self, prior: float) -> dict[str, Tensor]:
        """The weight, and the bias if there is one to take a constant."""
        square, across = self.square / self.count, self.across / self.count
        old, new = (total / self.count for total in self.sums)
        if self.has_constant:
            square, across = square - torch.outer(new, new), across - torch.outer(new, old)
        weight = prior * square.diagonal().mean()
        square = square + weight * torch.eye(len(square), dtype=square.dtype)
        wanted, own = self._flat(self.wanted), self._flat(self.own)  # [columns, outputs x taps]
        solution = torch.zeros_like(own)
        solution[self.left] = torch.linalg.solve(square, across @ wanted + weight * own[self.left])
        found = {self.reader.weight: self._unflat(solution).to(self.own.dtype)}
        if self.bias is not None and self.has_constant and self.reader.bias is not None:
            moved = old @ wanted - new @ solution[self.left]
            constant = moved if self.is_by_patch else moved.reshape(len(self.bias), -1).sum(1)
            found[self.reader.bias] = self.bias + constant.to(self.bias.dtype)
        return found

    def _rows(self, value: Tensor) -> Tensor:
        if not self.is_by_patch:
            return value.movedim(self.reader.axis, -1).reshape(-1, value.shape[self.reader.axis])
        stride, padding, dilation = (_pair(self.node, n, default) for n, default in ((3, 1), (4, 0), (5, 1)))
        patches = F.unfold(value, self.own.shape[2:], dilation, padding, stride)  # [batch, columns, places]
        return patches.movedim(1, -1).flatten(0, 1)

    def _flat(self, weight: Tensor) -> Tensor:
        """[columns, outputs], or where channels are mixed only [inputs, outputs x taps]."""
        if self.is_by_patch:
            return weight.double().flatten(1).T
        return weight.double().movedim(INPUT_AXIS, 0).flatten(1)

    def _unflat(self, flat: Tensor) -> Tensor:
        if self.is_by_patch:
            return flat.T.reshape(self.own.shape)
        outputs, inputs, *taps = self.own.shape
        return flat.reshape(inputs, outputs, *taps).movedim(0, INPUT_AXIS)


def _unfolds(node: fx.Node) -> bool:
    """Is this a convolution over planes, whose patches torch can lay out?"""
    return node.target is torch.ops.aten.conv2d.default


def _pair(node: fx.Node, position: int, default: int) -> tuple[int, int]:
    found: Any = node.args[position] if len(node.args) > position else default
    pair = [found] if isinstance(found, int) else list(found)
    return (pair[0], pair[-1])
