"""Finds the units of a network: it is traced, labels are propagated, and classes of labels become groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from esper.anatomy.graph import Loss, Traced, bare, named_tensors, operator_name, trace
from esper.anatomy.labels import Classes, operands_of, resolve
from esper.anatomy.structure import Anatomy
from esper.anatomy.units.propagate import Propagation, propagate
from esper.anatomy.units.units import build


def inspect(
    model: nn.Module, sample: Any, loss: Loss | None = None, *, allow_approximate: bool = False
) -> Anatomy:
    """Finds the units of a network: what can be removed alone, what is coupled, what is frozen and why.

    Args:
        model: the network; it is left untouched.
        sample: one batch: the input, or `(input, target)` when `loss` is given.
        loss: `loss(output, target)`; with it only the outputs that the loss uses are fixed.
        allow_approximate: also find units that normalizations run over (the width of a residual stream under
            LayerNorm or RMSNorm, experts under a softmax). Removing one changes what the others are divided
            by, so a cut equals the network whose normalizations run over what is left, not the masked one.

    Raises:
        UntraceableError: `torch.export` cannot follow the network.
    """
    return anatomy_of(trace(model, sample, loss), model, allow_approximate=allow_approximate)


def anatomy_of(traced: Traced, model: nn.Module, *, allow_approximate: bool = False) -> Anatomy:
    """The anatomy of a network that is already traced; see `inspect`."""
    propagation, classes = classes_of(traced, allow_approximate=allow_approximate)
    return build(propagation, classes, batch=traced.batch, aliases=_aliases(bare(model)))


def classes_of(traced: Traced, *, allow_approximate: bool = False) -> tuple[Propagation, Classes]:
    """The labels of a graph, and what of them lives or dies together or stays, with the reason."""
    propagation = propagate(traced, allow_approximate=allow_approximate)
    classes = resolve(propagation.space)
    if _freeze_unmeasurable(traced, propagation, classes):
        classes = resolve(propagation.space)
    return propagation, classes


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For every tensor that has several names: its first name and the others."""
    names: dict[int, list[str]] = {}
    for name, tensor in named_tensors(model).items():
        names.setdefault(id(tensor), []).append(name)
    return {first: tuple(others) for first, *others in names.values() if others}


def _freeze_unmeasurable(traced: Traced, found: Propagation, classes: Classes) -> bool:
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
