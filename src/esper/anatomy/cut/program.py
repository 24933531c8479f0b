"""Cutting a network as a program: its graph with smaller weights and rewritten sizes, proven equal.

The network's own code is asked only once, uncut. So this also cuts networks whose code repeats a size
(`C // 12`, `.view(B, T, 256)`) and refuses to run at another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from esper.anatomy.cut.rewriting import rewrite
from esper.anatomy.graph import Traced, traced_as
from esper.anatomy.proof import (
    Equivalence,
    Graph,
    Inputs,
    Reference,
    deep_copy,
    kept_indices,
    prove,
    select,
)
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import deployed, shrink
from esper.anatomy.units import Survivors, masked_axes, propagate, zero_masked
from esper.arrays import BoolArray
from esper.errors import NotEquivalentError

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class CutProgram:
    """A cut network without code: the program, how equal it is, and the constants that had to change."""

    program: ExportedProgram
    equivalence: Equivalence
    rewritten: tuple[str, ...]


def cut_program(model: nn.Module, anatomy: Anatomy, keep: BoolArray, inputs: Inputs) -> CutProgram:
    """The network without the units that `keep` marks False, as a program; the network is left untouched.

    Args:
        model: the live network the anatomy was made of.
        anatomy: its anatomy.
        keep: bool [units].
        inputs: one batch of inputs, to trace with and to prove equality on.

    Raises:
        MaskError: `keep` does not fit the anatomy.
        SurgeryError: a size in the graph cannot follow.
        NotEquivalentError: the program that came out does not compute what the masked one does.
        UntraceableError: the network cannot be exported.
    """
    anatomy.check_mask(keep)
    program = deployed(model, inputs.args, inputs.kwargs)
    return cut_traced(traced_as(program, model), anatomy, keep, inputs, state_of(program))


def cut_traced(
    traced: Traced,
    anatomy: Anatomy,
    keep: BoolArray,
    inputs: Inputs,
    state: State,
    finish: Callable[[fx.GraphModule], nn.Module] = lambda module: module,
) -> CutProgram:
    """Cuts a program that is already traced; it is used up.

    Args:
        traced: the uncut program.
        anatomy: the anatomy of the network.
        keep: bool [units].
        inputs: one batch of inputs for the finished module.
        state: every parameter and buffer, by the program's own names.
        finish: makes what is delivered from the program's module (for example, leaves the loss out).
    """
    program, removed = traced.program, anatomy.removed_indices(keep)
    own = {spec.target: traced.names.get(spec.arg.name, "") for spec in _held(program)}
    masked_state = {name: tensor.detach().clone() for name, tensor in state.items()}
    for (name, axis), gone in masked_axes(anatomy, keep).items():
        for target in (target for target, owner in own.items() if owner == name):
            zero_masked(masked_state, {(target, axis): gone})
    found = propagate(traced, allow_approximate=bool(anatomy.couplings))
    survivors = Survivors(found, removed)
    uncut = module_of(program, masked_state)
    shrink(uncut, survivors.of_statistics(program.graph))
    masked = finish(uncut)
    rewritten = [name for part in _parts(program) for name in rewrite(part.graph, survivors)]
    kept = kept_indices(anatomy, removed)
    cut: dict[int, Tensor] = {}  # tied tensors stay one
    for name, tensor in state.items():
        axes = kept.get(own.get(name, ""), {})
        part = select(tensor, axes)
        cut.setdefault(id(tensor), part if axes else part.clone())  # never the network's own memory
    cut_state = {name: cut[id(tensor)] for name, tensor in state.items()}
    smaller = traced_again(finish(module_of(program, cut_state)), inputs)
    proof = prove(Graph(smaller.module(), inputs), Reference.of(Graph(masked, inputs)))
    return CutProgram(smaller, proof, tuple(rewritten))


def traced_again(module: nn.Module, inputs: Inputs) -> ExportedProgram:
    """Traced anew, so that every shape in the program is checked and none is left over."""
    try:
        unwrapped = isinstance(module, fx.GraphModule)
        return deployed(module, inputs.args, inputs.kwargs, unwrapped=unwrapped)
    except Exception as error:
        raise NotEquivalentError(
            f"The network's program does not run at the new sizes: {str(error).splitlines()[0]} Nothing was "
            "changed. Leave the units whole that this operator moves."
        ) from error


def _held(program: ExportedProgram) -> list[Any]:
    """What the graph says of every parameter, buffer and constant."""
    return [spec for spec in program.graph_signature.input_specs if spec.target is not None]


def state_of(program: ExportedProgram) -> dict[str, Tensor]:
    """Parameters, buffers and constants by the program's own names."""
    held = {**program.constants, **program.state_dict}
    return {name: value for name, value in held.items() if isinstance(value, Tensor)}


def _parts(program: ExportedProgram) -> list[fx.GraphModule]:
    """The graph and those inside it."""
    return [part for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)]


def module_of(program: ExportedProgram, state: State) -> fx.GraphModule:
    """The program as a module that computes with these tensors."""
    parameters: dict[int, nn.Parameter] = {}
    for name, value in state.items():
        if name in program.constants:
            program.constants[name] = value
        elif isinstance(program.state_dict[name], nn.Parameter):
            made = parameters.setdefault(id(value), nn.Parameter(value, requires_grad=False))
            program.state_dict[name] = made
        else:
            program.state_dict[name] = value
    for part in _parts(program):
        part.graph.lint()
        part.recompile()
    return deep_copy(program.module(check_guards=False))
