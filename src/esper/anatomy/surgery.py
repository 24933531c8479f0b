"""Cutting: removes units from the live network and its optimizer, and keeps only what is proven equal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.attributes import fit_attributes
from esper.anatomy.equivalence import Equivalence, Probe, reference
from esper.anatomy.modules import refresh
from esper.anatomy.optimizer_state import StateLayouts, cut_state, named
from esper.anatomy.structure import Anatomy, BoolArray
from esper.anatomy.tensors import Undo, kept_indices, live_tensors, resize, select, spread_out


@dataclass(frozen=True)
class Cut:
    """What a cut did: how equal the result is, and the coordinates that stayed by tensor and axis."""

    equivalence: Equivalence
    kept: Mapping[str, Mapping[int, Tensor]]
    parameters_before: int
    parameters_after: int
    rewritten: tuple[str, ...]
    """Attributes of modules unknown to Esper that had to follow, as `path.attribute = new`."""
    attributes: Undo
    """Takes every attribute back; part of `uncut`."""


def cut(
    model: nn.Module,
    anatomy: Anatomy,
    keep: BoolArray,
    probe: Probe,
    optimizers: tuple[Optimizer, ...] = (),
) -> Cut:
    """Removes the units that `keep` marks False, in place, or leaves everything as it was.

    Parameters stay the same objects, so optimizer groups, tied names and hooks keep working; gradients and
    every element-wise optimizer state tensor lose the same coordinates.

    Args:
        model: the live network the anatomy was made of.
        anatomy: its anatomy.
        keep: bool [units].
        probe: inputs to prove equality on; a few samples are enough.
        optimizers: optimizers that hold the network's parameters.

    Raises:
        MaskError: `keep` does not fit the anatomy.
        NotEquivalentError: the network's own code does not work at the new sizes; nothing changed.
        SurgeryError: the anatomy is of another network, or an optimizer's state cannot follow; nothing
            changed.
    """
    tensors = live_tensors(model, anatomy)
    kept = kept_indices(anatomy, anatomy.removed_indices(keep))
    expected = reference(model, anatomy, keep, probe)
    before = sum(p.numel() for p in model.parameters())
    undo, attributes = Undo(), Undo()
    try:
        for optimizer in optimizers:
            cut_state(optimizer, named(tensors), kept, undo)
        _cut_tensors(tensors, kept, undo)
        for path, module in model.named_modules():
            refresh(module, path, kept, attributes)
        equivalence, rewritten = fit_attributes(model, anatomy, keep, kept, expected, probe, attributes)
    except BaseException:
        attributes.run()
        undo.run()
        raise
    after = sum(p.numel() for p in model.parameters())
    return Cut(equivalence, kept, before, after, rewritten, attributes)


def uncut(model: nn.Module, before: Anatomy, made: Cut, optimizers: tuple[Optimizer, ...] = ()) -> None:
    """Gives the network the shapes it had before a cut, so that a checkpoint from then fits again.

    Coordinates that the cut removed come back as zeros, in parameters, buffers and optimizer state alike.
    Cuts are taken back last first.

    Args:
        model: the network as the cut left it.
        before: the anatomy that the cut was made with.
        made: what `cut` returned.
        optimizers: the same as for the cut.
    """
    named_tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    shapes = {info.name: info.shape for info in before.tensors}
    states = [StateLayouts(optimizer, {}) for optimizer in optimizers]
    for name, axes in made.kept.items():
        tensor = named_tensors[name]
        for state in states:
            state.spread(tensor, axes, shapes[name])
        resize(tensor, spread_out(tensor, axes, shapes[name]), Undo())
    made.attributes.run()


def _cut_tensors(tensors: Mapping[str, Tensor], kept: Mapping[str, Mapping[int, Tensor]], undo: Undo) -> None:
    for name, axes in kept.items():
        tensor = tensors[name]
        gradient = None if tensor.grad is None else select(tensor.grad, axes)
        resize(tensor, select(tensor, axes), undo)
        tensor.grad = gradient
