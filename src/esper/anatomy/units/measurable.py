"""Units whose effect cannot be measured in batches of every size, and so may not go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, fx

from esper.anatomy.graph import Traced, operator_name
from esper.anatomy.labels import Classes, operands_of
from esper.anatomy.units.propagate import Propagation


def freeze_unmeasurable(traced: Traced, found: Propagation, classes: Classes) -> bool:
    """Freezes what an operator sums along an axis as long as the batch, beside samples. Was there any?

    What fills the summed axes lives on in the sum (heads in a product of matrices), and is read further down.
    """
    nodes, is_any = {node.name: node for node in traced.program.graph.nodes}, False
    for read in found.notes.reads:
        beside = [n for n in _open_axes(nodes.get(read.node), read.argument) if n < read.layer.dim()]
        if not any(read.layer.shape[axis] > 1 for axis in beside):
            continue
        owners = classes.map(read.layer)
        lives_on = (owners == owners.max(axis=read.axes, keepdims=True)).all(axis=read.axes, keepdims=True)
        stays = np.isin(owners, [0, *classes.reason])
        if not (lives_on | stays).all():
            found.space.freeze(read.layer, f"{_named(nodes[read.node])} reads it along the axis of samples")
            is_any = True
    return is_any


def _open_axes(node: fx.Node | None, argument: int) -> list[int]:
    """Axes of an argument whose size differs from batch to batch."""
    operands = [] if node is None else operands_of(node.target, node.args)
    source = operands[argument] if argument < len(operands) else None
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    sizes: Sequence[int | torch.SymInt] = value.shape if isinstance(value, Tensor) else ()
    return [axis for axis, size in enumerate(sizes) if isinstance(size, torch.SymInt)]


def _named(node: fx.Node) -> str:
    return f"{operator_name(node.target)} at {node.name}"
