"""Finds the units of a network: it is traced, labels are propagated, and classes of labels become groups."""

from __future__ import annotations

from typing import Any

from torch import nn

from esper.anatomy.graph import Loss, Traced, bare, named_tensors, trace
from esper.anatomy.labels import resolve
from esper.anatomy.structure import Anatomy
from esper.anatomy.units.measurable import freeze_unmeasurable
from esper.anatomy.units.propagate import propagate
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
    propagation = propagate(traced, allow_approximate=allow_approximate)
    classes = resolve(propagation.space)
    if freeze_unmeasurable(traced, propagation, classes):
        classes = resolve(propagation.space)
    return build(propagation, classes, batch=traced.batch, aliases=_aliases(bare(model)))


def _aliases(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For every tensor that has several names: its first name and the others."""
    names: dict[int, list[str]] = {}
    for name, tensor in named_tensors(model).items():
        names.setdefault(id(tensor), []).append(name)
    return {first: tuple(others) for first, *others in names.values() if others}
