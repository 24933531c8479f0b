"""The masked network, which a cut one must be equal to.

Where the user allows that normalizations run over what is left, the reference is the network's own graph,
uncut and masked, whose normalizations run over the survivors. So also such a cut is proven: nothing but those
statistics changes. How far they move the outputs is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from esper.anatomy.graph import copied, named_tensors, traced_as
from esper.anatomy.proof.compare import Reference, gradients_differ, largest_difference, outputs_differ
from esper.anatomy.proof.inputs import Inputs
from esper.anatomy.proof.observe import OUTPUTS, Live, Mode, Observation, in_double, seen_in
from esper.anatomy.proof.pieces import large_in
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import deployed, shrink
from esper.anatomy.units import Propagation, Survivors, masked_axes, propagate, zero_masked
from esper.arrays import BoolArray
from esper.errors import UntraceableError


def masked(model: nn.Module, anatomy: Anatomy, keep: BoolArray, inputs: Inputs) -> Live:
    """The network with units at zero; it is not touched."""
    axes = masked_axes(anatomy, keep)

    def zeroed(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        changed = {name: tensors[name] for name, _ in axes if name in tensors}
        zero_masked(changed, axes)  # they are copies already
        return changed

    return Live(model, inputs, zeroed, frozenset(name for name, _ in axes), large_in(anatomy))


def reference(model: nn.Module, anatomy: Anatomy, keep: BoolArray, inputs: Inputs) -> Reference:
    """Observes the masked network, its normalizations over what is left where the mask touches them.

    Raises:
        NotEquivalentError: it computes NaN.
        UntraceableError: it cannot be exported.
    """
    merely_masked = Reference.of(masked(model, anatomy, keep, inputs), is_quick=inputs.is_quick)
    rounds = partial(_rounding, model, inputs)
    if not anatomy.left_of_statistics(keep):
        return replace(merely_masked, rounding=rounds)
    narrowed = _Narrowed(model, anatomy, keep, inputs)
    single = narrowed.see(OUTPUTS)
    # How far the narrower statistics move the outputs is told, not judged.
    moved = largest_difference(single.outputs, merely_masked.single.outputs)
    if merely_masked.double is None:
        return replace(merely_masked, single=single, approximation=moved, rounding=rounds)
    note = "normalizations run over what is left; compared in eval mode"
    double = narrowed.see(Mode(torch.float64))
    return Reference(single, double, None, note, moved, rounds, can_train=merely_masked.can_train)


@dataclass(frozen=True, eq=False)
class _Narrowed:
    """The graph of the masked network, with normalizations over what is left."""

    model: nn.Module
    anatomy: Anatomy
    keep: BoolArray
    inputs: Inputs
    has_batch_statistics: ClassVar[bool] = False
    can_train: ClassVar[bool] = False
    advice: ClassVar[str] = ""

    def see(self, mode: Mode) -> Observation:
        dtype = mode.dtype
        # Traced in float64 itself: code that computes a step in another precision would lose its casts else.
        network, inputs = copied(self.model).to(dtype), self.inputs.cast(dtype)
        zero_masked(dict(network.named_parameters()), masked_axes(self.anatomy, self.keep))
        graph = self._graph(network, inputs, dtype)
        survivors = Survivors(graph.labels, self.anatomy.removed_indices(self.keep))
        module = graph.of(network)
        shrink(module, survivors.of_statistics(graph.program.graph))
        return seen_in(module, inputs, with_gradients=mode.with_gradients)

    def _graph(self, network: nn.Module, inputs: Inputs, dtype: torch.dtype) -> _Graph:
        """The graph of the uncut network, which is the same for every mask."""
        sizes = tuple((name, tensor.shape) for name, tensor in named_tensors(network).items())
        key = _Graph, dtype, sizes
        if key not in self.inputs.graphs:
            program = deployed(network, inputs.args, inputs.kwargs)
            traced = traced_as(program, network)
            # Labels of this very graph say what its normalizations lose.
            self.inputs.graphs[key] = _Graph(program, traced.names, propagate(traced, allow_approximate=True))
        known: _Graph = self.inputs.graphs[key]
        return known


@dataclass(frozen=True, eq=False)
class _Graph:
    """A network's graph with its labels, for any values of its tensors."""

    program: ExportedProgram
    names: Mapping[str, str]
    labels: Propagation

    def of(self, network: nn.Module) -> GraphModule:
        """The graph with the values of a network of these sizes; nothing of it is kept here."""
        values, held = named_tensors(network), self.program.state_dict
        own = [spec for spec in self.program.graph_signature.input_specs if spec.target in held]
        for spec in own:
            held[spec.target] = values[self.names[spec.arg.name]]
        module = self.program.module(check_guards=False)
        for spec in own:
            held[spec.target] = held[spec.target].detach().to("meta")
        return module


def _rounding(model: nn.Module, inputs: Inputs) -> tuple[float, float]:
    """What the network's code rounds in float64: outputs and gradients beside those of its widened graph.

    Nothing is known to be rounded where its graph cannot be had.
    """
    wide = inputs.cast(torch.float64)
    try:
        program = deployed(copied(model).double(), wide.args, wide.kwargs)
        module = program.module(check_guards=False)
        ours, exact = (seen_in(one, wide, with_gradients=True) for one in (module, in_double(module)))
    except (RuntimeError, UntraceableError):
        return 0.0, 0.0
    return outputs_differ(ours, exact), gradients_differ(ours, exact, {})
