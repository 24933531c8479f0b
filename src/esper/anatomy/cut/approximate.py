"""What a cut network is compared with where the user allows that normalizations run over what is left.

The reference is the network's own graph, uncut and masked, whose normalizations run over the survivors. So
also such a cut is proven: nothing but those statistics changes. How far they move the outputs is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from esper.anatomy.cut.program import in_double
from esper.anatomy.graph import copied, traced_as
from esper.anatomy.proof import (
    Observation,
    Probe,
    Reference,
    difference,
    gradients_differ,
    gradients_of,
    is_number,
    masked_reference,
    outputs_differ,
)
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import deployed, shrink
from esper.anatomy.units import Survivors, masked_axes, propagate, zero_masked
from esper.arrays import BoolArray
from esper.errors import UntraceableError


def reference(model: nn.Module, anatomy: Anatomy, keep: BoolArray, probe: Probe) -> Reference:
    """Observes the masked network, its normalizations over what is left where the mask touches them.

    Raises:
        NotEquivalentError: it computes NaN.
        UntraceableError: it cannot be exported.
    """
    merely_masked = masked_reference(model, anatomy, keep, probe)
    rounding = partial(_rounding, model, probe)
    if not anatomy.left_of_statistics(keep):
        return replace(merely_masked, rounding=rounding)
    single = _seen(_uncut(model, anatomy, keep, probe, torch.float32), probe.cast(torch.float32))
    pairs = zip(single.outputs, merely_masked.single.outputs, strict=True)
    moved = max(difference(ours, theirs) for ours, theirs in pairs)
    if merely_masked.double is None:
        return Reference(single, None, None, merely_masked.note, moved, rounding)
    # Traced in float64 itself: code that computes one step in another precision would lose its casts else.
    double = _seen(_uncut(model, anatomy, keep, probe, torch.float64), probe.cast(torch.float64))
    note = "normalizations run over what is left; compared in eval mode"
    return Reference(single, double, None, note, moved, rounding)


def _uncut(
    model: nn.Module, anatomy: Anatomy, keep: BoolArray, probe: Probe, dtype: torch.dtype
) -> nn.Module:
    """The masked network as a module of its graph, with normalizations over what is left."""
    network, inputs = copied(model).to(dtype), probe.cast(dtype)
    with torch.no_grad():
        zero_masked(dict(network.named_parameters()), masked_axes(anatomy, keep))
    program = deployed(network, inputs.args, inputs.kwargs)
    found = propagate(traced_as(program, network), allow_approximate=True)
    survivors = Survivors(found, anatomy.removed_indices(keep))
    module = program.module(check_guards=False)
    shrink(module, survivors.of_statistics(program.graph))
    return module


def _rounding(model: nn.Module, probe: Probe) -> tuple[float, float]:
    """What the network's code rounds in float64: outputs and gradients beside those of its widened graph.

    Nothing is known to be rounded where its graph cannot be had.
    """
    wide = probe.cast(torch.float64)
    try:
        program = deployed(copied(model).double(), wide.args, wide.kwargs)
        module = program.module(check_guards=False)
        ours, exact = _seen(module, wide), _seen(in_double(module), wide)
    except (RuntimeError, UntraceableError):
        return 0.0, 0.0
    return outputs_differ(ours, exact), gradients_differ(ours, exact, {})


def _seen(module: nn.Module, inputs: Probe) -> Observation:
    """Outputs, and gradients by the network's own names of parameters."""
    wanted = {
        name.removeprefix("model."): parameter.requires_grad_()
        for name, parameter in module.named_parameters()
        if is_number(parameter)
    }
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        output = module(*inputs.args, **inputs.kwargs)
        outputs = tuple(leaf for leaf in pytree.tree_leaves(output) if is_number(leaf))
        gradients: Mapping[str, Tensor] = {}
        if any(leaf.requires_grad for leaf in outputs):
            gradients = gradients_of(outputs, wanted)
    return Observation(tuple(leaf.detach() for leaf in outputs), gradients)
