"""Cutting: removes units from the live network and its optimizer, and keeps only what is proven equal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.cut.attributes import fit_attributes
from esper.anatomy.cut.companions import copy_in
from esper.anatomy.cut.modules import refresh
from esper.anatomy.cut.optimizer_state import StateLayouts, cut_state, named
from esper.anatomy.graph import (
    bare,
    check_renewable,
    check_tensors,
    check_values,
    gathered,
    group_of,
    named_tensors,
    renew,
    together,
)
from esper.anatomy.proof import (
    Equivalence,
    Inputs,
    Undo,
    kept_indices,
    live_tensors,
    reference,
    resize,
    select,
    spread_out,
)
from esper.anatomy.structure import Anatomy
from esper.arrays import BoolArray


@dataclass(frozen=True, eq=False)
class Cut:
    """What a cut did: how equal the result is, and the coordinates that stayed by tensor and axis."""

    anatomy: Anatomy
    keep: BoolArray
    equivalence: Equivalence
    kept: Mapping[str, Mapping[int, Tensor]]
    parameters_before: int
    parameters_after: int
    rewritten: tuple[str, ...]
    """Attributes of modules unknown to Esper that had to follow, as `path.attribute = new`."""
    attributes: Undo
    """Takes every attribute back; part of `uncut`."""
    copies: tuple[nn.Module, ...] = ()
    """The copies inside of companions that were cut too."""


def _nothing_more() -> None:
    return None


def cut(
    model: nn.Module,
    anatomy: Anatomy,
    keep: BoolArray,
    inputs: Inputs,
    optimizers: tuple[Optimizer, ...] = (),
    companions: tuple[nn.Module, ...] = (),
    *,
    then: Callable[[], None] = _nothing_more,
) -> Cut:
    """Removes the units that `keep` marks False, in place, or leaves everything as it was.

    Parameters stay the same objects, so optimizer groups, tied names and hooks keep working; gradients and
    the optimizer state of the same coordinates go with them. A network in `torch.compile` or
    `DistributedDataParallel` may be given as it is; all ranks must call this with the same arguments.

    Args:
        model: the live network the anatomy was made of.
        anatomy: its anatomy.
        keep: bool [units].
        inputs: inputs to prove equality on; a few samples are enough.
        optimizers: optimizers that hold the network's parameters.
        companions: modules that hold a copy of the network (an EMA, a teacher); they lose the same units,
            each with a proof of its own.
        then: called when all is cut and proven; if it raises, the cut is undone.

    Raises:
        MaskError: `keep` does not fit the anatomy.
        NotEquivalentError: the network's own code does not work at the new sizes; nothing changed.
        SurgeryError: the anatomy is of another network, or an optimizer's state or a companion cannot follow;
            nothing changed.
        RankDivergence: the ranks of a parallel network do not agree; nothing changed.
    """
    check_renewable(model)
    undo, attributes = Undo(), Undo()
    network = bare(model)
    home = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with ExitStack() as whole:
            shared = whole.enter_context(gathered(network, optimizers))
            for companion in companions:
                whole.enter_context(gathered(companion))
            try:
                with together(shared or group_of(model), anatomy.digest.encode() + keep.tobytes(), home):
                    for tensors_of in (network, *companions):
                        check_tensors(tensors_of)
                        check_values(tensors_of)
                    copies = [copy_in(companion, network, anatomy) for companion in companions]
                    made = _cut_one(network, anatomy, keep, inputs, optimizers, undo, attributes)
                    for copied in copies:
                        _cut_one(copied, anatomy, keep, inputs.beside(copied), (), undo, attributes)
                    then()
            except BaseException:
                attributes.run()
                undo.run()
                raise
    finally:  # also after a failure: sizes that change and change back leave their traces in a wrapper
        for changed in (model, *companions):
            renew(changed)
    return replace(made, copies=tuple(copies))


def _cut_one(
    model: nn.Module,
    anatomy: Anatomy,
    keep: BoolArray,
    inputs: Inputs,
    optimizers: tuple[Optimizer, ...],
    undo: Undo,
    attributes: Undo,
) -> Cut:
    tensors = live_tensors(model, anatomy)
    kept = kept_indices(anatomy, anatomy.removed_indices(keep))
    expected = reference(model, anatomy, keep, inputs)
    before = sum(p.numel() for p in model.parameters())
    for optimizer in optimizers:
        cut_state(optimizer, named(tensors), kept, undo)
    _cut_tensors(tensors, kept, undo)
    for path, module in model.named_modules():
        refresh(module, path, kept, attributes)
    equivalence, rewritten = fit_attributes(model, anatomy, keep, kept, expected, inputs, attributes)
    after = sum(p.numel() for p in model.parameters())
    return Cut(anatomy, keep, equivalence, kept, before, after, rewritten, attributes)


def uncut(model: nn.Module, before: Anatomy, made: Cut, optimizers: tuple[Optimizer, ...] = ()) -> None:
    """Gives network and companions the shapes they had before a cut, so that a checkpoint from then fits.

    Coordinates that the cut removed come back as zeros, in parameters, buffers and optimizer state alike.
    Cuts are taken back last first.

    Args:
        model: the network as the cut left it.
        before: the anatomy that the cut was made with.
        made: what `cut` returned.
        optimizers: the same as for the cut.
    """
    shapes = {info.name: info.shape for info in before.tensors}
    with ExitStack() as whole:
        whole.enter_context(gathered(bare(model), optimizers))
        for copied in made.copies:
            whole.enter_context(gathered(copied))
        states = [StateLayouts(optimizer, {}) for optimizer in optimizers]
        for tensors in map(named_tensors, (bare(model), *made.copies)):
            for name, axes in made.kept.items():
                for state in states:
                    state.spread(tensors[name], axes, shapes[name])
                resize(tensors[name], spread_out(tensors[name], axes, shapes[name]), Undo())
        made.attributes.run()
    for changed in (model, *made.copies):
        renew(changed)


def _cut_tensors(tensors: Mapping[str, Tensor], kept: Mapping[str, Mapping[int, Tensor]], undo: Undo) -> None:
    for name, axes in kept.items():
        tensor = tensors[name]
        gradient = None if tensor.grad is None else select(tensor.grad, axes)
        resize(tensor, select(tensor, axes), undo)
        tensor.grad = gradient
