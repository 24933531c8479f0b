"""Cutting a network as a program: its graph with smaller weights and rewritten sizes, proven equal.

The network's own code is asked only once, uncut. So this also cuts networks whose code repeats a size
(`C // 12`, `.view(B, T, 256)`) and refuses to run at another one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from esper.anatomy.cut.rewriting import rewrite
from esper.anatomy.graph import Traced, traced_as
from esper.anatomy.proof import (
    FLOAT32_LIMIT,
    FLOAT64_LIMIT,
    SENSITIVE_LIMIT,
    Equivalence,
    Probe,
    difference,
    kept_indices,
    select,
)
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import deployed, shrink
from esper.anatomy.units import Survivors, masked_axes, propagate, zero_masked
from esper.arrays import BoolArray
from esper.errors import NotEquivalentError

State = Mapping[str, Tensor]
_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True)
class CutProgram:
    """A cut network without code: the program, how equal it is, and the constants that had to change."""

    program: ExportedProgram
    equivalence: Equivalence
    rewritten: tuple[str, ...]


def cut_program(model: nn.Module, anatomy: Anatomy, keep: BoolArray, probe: Probe) -> CutProgram:
    """The network without the units that `keep` marks False, as a program; the network is left untouched.

    Args:
        model: the live network the anatomy was made of.
        anatomy: its anatomy.
        keep: bool [units].
        probe: one batch of inputs, to trace with and to prove equality on.

    Raises:
        MaskError: `keep` does not fit the anatomy.
        SurgeryError: a size in the graph cannot follow.
        NotEquivalentError: the program that came out does not compute what the masked one does.
        UntraceableError: the network cannot be exported.
    """
    anatomy.check_mask(keep)
    program = deployed(model, probe.args, probe.kwargs)
    return cut_traced(traced_as(program, model), anatomy, keep, probe, state_of(program))


def cut_traced(
    traced: Traced,
    anatomy: Anatomy,
    keep: BoolArray,
    probe: Probe,
    state: State,
    finish: Callable[[fx.GraphModule], nn.Module] = lambda module: module,
) -> CutProgram:
    """Cuts a program that is already traced; it is used up.

    Args:
        traced: the uncut program.
        anatomy: the anatomy of the network.
        keep: bool [units].
        probe: one batch of inputs for the finished module.
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
    smaller = traced_again(finish(module_of(program, cut_state)), probe)
    return CutProgram(smaller, compared(smaller.module(), masked, probe), tuple(rewritten))


def traced_again(module: nn.Module, probe: Probe) -> ExportedProgram:
    """Traced anew, so that every shape in the program is checked and none is left over."""
    try:
        unwrapped = isinstance(module, fx.GraphModule)
        return deployed(module, probe.args, probe.kwargs, unwrapped=unwrapped)
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
    return _copied(program.module(check_guards=False))


def _copied(module: _M) -> _M:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about its tree of inputs
        return copy.deepcopy(module)


def compared(ours: nn.Module, masked: nn.Module, probe: Probe) -> Equivalence:
    """Compares outputs in float32 and in float64.

    Raises:
        NotEquivalentError: they differ by more than floating-point tolerance.
    """
    float32 = _differ(outputs_of(ours, probe), outputs_of(masked, probe))
    double = probe.cast(torch.float64)
    theirs = outputs_of(in_double(masked), double)
    float64 = _differ(outputs_of(in_double(ours), double), theirs)
    limit = FLOAT64_LIMIT
    if limit < float64 < SENSITIVE_LIMIT:  # a network that enlarges rounding: see `equivalence.prove`
        nudged = outputs_of(in_double(masked, nudge=2.0**-52), double)
        limit = min(max(limit, 100 * _differ(nudged, theirs)), SENSITIVE_LIMIT)
    if not (float64 <= limit and float32 <= 1e6 * limit + 100 * FLOAT32_LIMIT):
        raise NotEquivalentError(
            f"The cut program differs from the masked one by {float64:.2g} in float64 (limit "
            f"{limit:.2g}) and {float32:.2g} in float32. Nothing was changed. Leave these units whole."
        )
    samples = max((t.shape[0] for t in theirs if t.dim()), default=0)
    return Equivalence(float32, float64, None, samples, "outputs of the program; gradients not compared")


def outputs_of(module: nn.Module, probe: Probe, *, with_gradients: bool = False) -> list[Tensor]:
    """What a module gives for a probe: its floating-point tensors."""
    with torch.set_grad_enabled(with_gradients), torch.random.fork_rng(devices=[]):
        output = module(*probe.args, **probe.kwargs)
    return [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]


def _differ(ours: list[Tensor], theirs: list[Tensor]) -> float:
    if len(ours) != len(theirs) or not ours:
        return float("inf")
    return max(difference(a, b) for a, b in zip(ours, theirs, strict=True))


def in_double(module: nn.Module, *, nudge: float = 0.0) -> nn.Module:
    """A copy that computes everything in float64, whatever types the network's code names."""
    wide = _copied(module).double()
    for part in wide.modules():
        if isinstance(part, fx.GraphModule):
            _widen(part)
    with torch.no_grad():
        for parameter in wide.parameters():
            if nudge and parameter.is_floating_point():
                parameter.mul_(1.0 + nudge)
    return wide


_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def _widen(part: fx.GraphModule) -> None:
    for node in list(part.graph.nodes):
        if "_assert_tensor_metadata" in str(node.target):
            part.graph.erase_node(node)
            continue
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            value = getattr(part.get_submodule(owner), name)
            if isinstance(value, Tensor) and value.dtype in _NARROW:  # neither parameter nor buffer
                setattr(part.get_submodule(owner), name, value.double())
        node.args, node.kwargs = pytree.tree_map(_wider, (node.args, node.kwargs))
    part.recompile()


def _wider(value: Any) -> Any:
    return torch.float64 if value in _NARROW and isinstance(value, torch.dtype) else value
