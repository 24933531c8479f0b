"""Cutting a network as a program: its graph with smaller weights and rewritten sizes, proven equal.

The network's own code is asked only once, uncut. So this also cuts networks whose code repeats a size
(`C // 12`, `.view(B, T, 256)`) and refuses to run at another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from esper.anatomy.cut.exported import State, module_of, state_of, traced_again
from esper.anatomy.cut.layers import Omission, block_names, forget_unread, traced_for
from esper.anatomy.cut.result import Cut
from esper.anatomy.cut.rewriting import rewrite
from esper.anatomy.graph import Traced, lowered, parts_of, traced_as
from esper.anatomy.proof import Graph, Inputs, Reference, kept_indices, prove, select, why_random
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import deployed, shrink
from esper.anatomy.units import Survivors, masked_axes, propagate, zero_masked
from esper.arrays import BoolArray
from esper.errors import NotEquivalentError


def cut_program(
    model: nn.Module, anatomy: Anatomy, keep: BoolArray, inputs: Inputs, *, blocks: Sequence[str] = ()
) -> Cut:
    """The network without the units that `keep` marks False, as a program; the network is left untouched.

    Args:
        model: the live network the anatomy was made of.
        anatomy: its anatomy; with `blocks`, it may be that of the network without them.
        keep: bool [units].
        inputs: one batch of inputs, to trace with and to prove equality on.
        blocks: residual layers that go too, by name, as `residual_blocks` says it.

    Raises:
        MaskError: `keep` does not fit the anatomy.
        UnknownPathError: there is no block of that name.
        SurgeryError: a size in the graph cannot follow.
        NotEquivalentError: the program that came out does not compute what the masked one does.
        UntraceableError: the network cannot be exported.
    """
    anatomy.check_mask(keep)
    if _blocks(anatomy, keep, blocks):
        traced = traced_for(model, inputs.args, inputs.kwargs)
    else:
        traced = traced_as(deployed(model, inputs.args, inputs.kwargs), model)
    return cut_traced(traced, anatomy, keep, inputs, state_of(traced.program), blocks=blocks)


def _blocks(anatomy: Anatomy, keep: BoolArray, blocks: Sequence[str]) -> tuple[str, ...]:
    return (*blocks, *block_names(anatomy, np.flatnonzero(anatomy.is_layer & ~keep)))


def cut_traced(
    traced: Traced,
    anatomy: Anatomy,
    keep: BoolArray,
    inputs: Inputs,
    state: State,
    finish: Callable[[fx.GraphModule], nn.Module] = lambda module: module,
    *,
    blocks: Sequence[str] = (),
) -> Cut:
    """Cuts a program that is already traced; it is used up.

    Args:
        traced: the uncut program.
        anatomy: the anatomy of the network.
        keep: bool [units].
        inputs: one batch of inputs for the finished module.
        state: every parameter and buffer, by the program's own names.
        finish: makes what is delivered from the program's module (for example, leaves the loss out).
        blocks: residual layers that go too, by name.
    """
    names, lost = _blocks(anatomy, keep, blocks), anatomy.removed_indices(keep | anatomy.is_layer)
    if names:  # what writes in place would go on writing without the layer that it is in
        traced = replace(traced, program=lowered(traced.program, with_writes=True))
    program, layers = traced.program, Omission.of(traced, names)
    own = {spec.target: traced.names.get(spec.arg.name, "") for spec in _held(program)}
    # The reference: everything at its old size, zeros where something goes.
    masked_state = {name: tensor.detach().clone() for name, tensor in state.items()}
    for (name, axis), gone in masked_axes(anatomy, keep | anatomy.is_layer).items():
        for target in (target for target, owner in own.items() if owner == name):
            zero_masked(masked_state, {(target, axis): gone})
    masked = layers.masked(masked_state)
    # The program: without the layers, and every size in it that of what is left.
    layers.omit()
    survivors = Survivors(propagate(traced, allow_approximate=bool(anatomy.couplings)), lost)
    shrink(masked, survivors.of_statistics(program.graph))
    rewritten = [name for part in parts_of(program) for name in rewrite(part.graph, survivors)]
    kept = kept_indices(anatomy, {key: gone for key, gone in lost.items() if key[0] not in layers.tensors})
    cut: dict[int, Tensor] = {}  # tied tensors stay one
    for name, tensor in state.items():
        axes = kept.get(own.get(name, ""), {})
        part = select(tensor, axes)
        cut.setdefault(id(tensor), part if axes else part.clone())  # never the network's own memory
    cut_state = {name: cut[id(tensor)] for name, tensor in state.items()}
    module = module_of(program, cut_state)
    smaller = traced_again(finish(forget_unread(module) if names else module), inputs)
    whole = Graph(finish(masked), inputs)
    try:
        proof = prove(Graph(smaller.module(), inputs), Reference.of(whole))
    except NotEquivalentError as error:
        if why := why_random(whole):
            raise NotEquivalentError(why) from error
        raise
    return Cut(
        anatomy,
        keep,
        proof,
        kept,
        anatomy.parameters(),
        sum(p.numel() for p in smaller.parameters()),
        layers.names,
        (),
        tuple(rewritten),
        smaller,
    )


def _held(program: ExportedProgram) -> list[Any]:
    """What the graph says of every parameter, buffer and constant."""
    return [spec for spec in program.graph_signature.input_specs if spec.target is not None]
