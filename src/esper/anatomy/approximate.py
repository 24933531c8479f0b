"""What a cut network is compared with where the user allows that normalizations run over what is left.

The reference is the network's own graph, uncut and masked, whose normalizations run over the survivors. So
also such a cut is proven: nothing but those statistics changes. How far they move the outputs is measured.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from esper.anatomy.deployed import deployed
from esper.anatomy.equivalence import Observation, Probe, Reference, difference, gradients_of, is_number
from esper.anatomy.equivalence import reference as masked_reference
from esper.anatomy.masking import masked_axes, zero_masked
from esper.anatomy.over_survivors import Left, shrink
from esper.anatomy.propagate import Propagation, propagate
from esper.anatomy.structure import Anatomy, BoolArray
from esper.anatomy.survivors import Survivors
from esper.anatomy.trace import traced_as


def reference(model: nn.Module, anatomy: Anatomy, keep: BoolArray, probe: Probe) -> Reference:
    """Observes the masked network, its normalizations over what is left where the mask touches them.

    Raises:
        NotEquivalentError: it computes NaN.
        UntraceableError: it cannot be exported.
    """
    merely_masked = masked_reference(model, anatomy, keep, probe)
    if not anatomy.left_of_statistics(keep):
        return merely_masked
    single = _observed(model, anatomy, keep, probe, torch.float32)
    double = merely_masked.double and _observed(model, anatomy, keep, probe, torch.float64)
    pairs = zip(single.outputs, merely_masked.single.outputs, strict=True)
    moved = max(difference(ours, theirs) for ours, theirs in pairs)
    note = merely_masked.note or "normalizations run over what is left, in eval mode"
    return Reference(single, double, None, note, approximation=moved)


def left_at(graph: fx.Graph, found: Propagation, survivors: Survivors) -> dict[str, Left]:
    """By node: what is left of the axes that its normalization runs over."""
    left: dict[str, list[tuple[int, Tensor]]] = {}
    nodes = {node.name: node for node in graph.nodes}
    for name, axis in sorted({(coupled.node, coupled.axis) for coupled in found.notes.coupled}):
        source = nodes[name].args[0]
        stays = survivors.of(source)[0][axis] if isinstance(source, fx.Node) else np.ones(0, np.bool_)
        if not stays.all():
            left.setdefault(name, []).append((axis, torch.from_numpy(np.flatnonzero(stays))))
    return dict(left)


def _observed(
    model: nn.Module, anatomy: Anatomy, keep: BoolArray, probe: Probe, dtype: torch.dtype
) -> Observation:
    """Traced in the very precision: code that computes one step in another would lose its casts else."""
    network, inputs = copy.deepcopy(model).to(dtype), probe.cast(dtype)
    with torch.no_grad():
        zero_masked(dict(network.named_parameters()), masked_axes(anatomy, keep))
    program = deployed(network, inputs.args, inputs.kwargs)
    found = propagate(traced_as(program, network), allow_approximate=True)
    left = left_at(program.graph, found, Survivors(found, anatomy.removed_indices(keep)))
    module = program.module(check_guards=False)
    shrink(module, left)
    wanted = {
        name.removeprefix("model."): parameter.requires_grad_()
        for name, parameter in module.named_parameters()
        if is_number(parameter)
    }
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        output = module(*inputs.args, **inputs.kwargs)
        outputs = tuple(leaf for leaf in pytree.tree_leaves(output) if is_number(leaf))
        gradients: Mapping[str, Tensor] = {}
        if dtype == torch.float64 and any(leaf.requires_grad for leaf in outputs):
            gradients = gradients_of(outputs, wanted)
    return Observation(tuple(leaf.detach() for leaf in outputs), gradients)
