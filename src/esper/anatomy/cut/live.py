"""Cutting the live network: units leave it, its optimizer and its copies; only what is proven equal stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.cut.companions import copy_in
from esper.anatomy.cut.layers import Removed, block_names, forget, remove
from esper.anatomy.cut.modules import fit_attributes, refresh
from esper.anatomy.cut.optimizers import cut_state, named
from esper.anatomy.cut.result import Cut
from esper.anatomy.graph import (
    bare,
    check_renewable,
    check_tensors,
    check_values,
    gathered,
    group_of,
    is_parallel,
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
)
from esper.anatomy.structure import Anatomy
from esper.arrays import BoolArray
from esper.errors import SurgeryError, UntraceableError


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
    blocks: Sequence[str] = (),
    then: Callable[[], None] = _nothing_more,
) -> Cut:
    """Removes the units that `keep` marks False, in place, or leaves everything as it was.

    Parameters stay the same objects, so optimizer groups, tied names and hooks keep working; gradients and
    the optimizer state of the same coordinates go with them. Of a layer that goes, modules lose their tensors
    and do nothing any more (`RemovedModule`), and optimizers forget its parameters. A network in
    `torch.compile` or `DistributedDataParallel` may be given as it is; all ranks must call this with the same
    arguments.

    Args:
        model: the live network the anatomy was made of.
        anatomy: its anatomy; with `blocks`, it may be that of the network without them.
        keep: bool [units].
        inputs: inputs to prove equality on; a few samples are enough.
        optimizers: optimizers that hold the network's parameters.
        companions: modules that hold a copy of the network (an EMA, a teacher); they lose the same units,
            each with a proof of its own.
        blocks: residual layers that go too, by name, as `residual_blocks` says it.
        then: called when all is cut and proven; if it raises, the cut is undone.

    Raises:
        MaskError: `keep` does not fit the anatomy.
        UnknownPathError: there is no block of that name.
        NotEquivalentError: the network's own code does not work at the new sizes; nothing changed.
        SurgeryError: the anatomy is of another network, the code around a layer needs what would go, or an
            optimizer's state or a companion cannot follow; nothing changed.
        RankDivergence: the ranks of a parallel network do not agree; nothing changed.
    """
    anatomy.check_mask(keep)
    check_renewable(model)
    names = (*blocks, *block_names(anatomy, np.flatnonzero(anatomy.is_layer & ~keep)))
    if names and is_parallel(model):
        raise SurgeryError(
            "Several processes train this network, and layers are removed in one. Nothing was changed. "
            "Remove them before the network is parallelized."
        )
    change = _Change(anatomy, keep, names, tuple(optimizers))
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
                    made = change.of(network, inputs, change.optimizers)
                    for copied in copies:
                        change.of(copied, inputs.beside(copied), ())
                    then()
            except BaseException:
                change.take_back()
                raise
    finally:  # also after a failure: sizes that change and change back leave their traces in a wrapper
        for changed in (model, *companions):
            renew(changed)
    return replace(made, copies=tuple(copies))


@dataclass(frozen=True, eq=False)
class _Change:
    """One cut of a network and its copies, with what takes it back.

    Layers go first, and then units of what is left, by the same anatomy: a coordinate keeps its place when a
    layer goes.
    """

    anatomy: Anatomy
    keep: BoolArray
    blocks: tuple[str, ...]
    optimizers: tuple[Optimizer, ...]
    layers: Undo = field(default_factory=Undo)
    tensors: Undo = field(default_factory=Undo)
    attributes: Undo = field(default_factory=Undo)

    def take_back(self) -> None:
        for undo in (self.attributes, self.tensors, self.layers):
            undo.run()

    def of(self, model: nn.Module, inputs: Inputs, optimizers: tuple[Optimizer, ...]) -> Cut:
        """Makes it in one network."""
        before = sum(p.numel() for p in model.parameters())
        tensors = live_tensors(model, self.anatomy)
        removed = self._remove_layers(model, inputs, optimizers)
        # Of what went with a layer nothing is left to be narrowed.
        held = named_tensors(model)
        left = {name: tensor for name, tensor in tensors.items() if name in held}
        lost = self.anatomy.removed_indices(self.keep | self.anatomy.is_layer)
        kept = kept_indices(self.anatomy, {key: gone for key, gone in lost.items() if key[0] in left})
        proofs = [one.equivalence for one in removed]
        rewritten: tuple[str, ...] = ()
        if kept or not removed:
            proof, rewritten = self._remove_units(model, left, kept, inputs, optimizers)
            proofs.append(proof)
        return Cut(
            self.anatomy,
            self.keep,
            reduce(lambda first, second: second.after(first), proofs),
            kept,
            before,
            sum(p.numel() for p in model.parameters()),
            tuple(name for one in removed for name in one.blocks),
            tuple(name for one in removed for name in one.leftover),
            rewritten,
            _attributes=self.attributes,
            _layers=self.layers,
        )

    def _remove_layers(
        self, model: nn.Module, inputs: Inputs, optimizers: tuple[Optimizer, ...]
    ) -> tuple[Removed, ...]:
        """Removes the layers that go, if any do."""
        if not self.blocks:
            return ()
        before = dict(model.named_parameters())
        try:
            removed = remove(model, self.blocks, inputs, self.layers)
        except UntraceableError as error:
            raise SurgeryError(f"A layer cannot be removed: {error}") from error
        held = dict(model.named_parameters())
        for optimizer in optimizers:
            forget(optimizer, {p for name, p in before.items() if name not in held}, self.layers)
        # What is removed must be what was masked, all of it.
        gone = [self.anatomy.groups[n] for n in self.anatomy.group_of[self.anatomy.is_layer & ~self.keep]]
        stays = {m.tensor for group in gone for m in group.members} & (held.keys() - set(removed.leftover))
        if stays:
            raise SurgeryError(
                f"{min(stays)} belongs to a layer that was masked and would not go with it. Nothing was "
                "changed."
            )
        return (removed,)

    def _remove_units(
        self,
        model: nn.Module,
        tensors: Mapping[str, Tensor],
        kept: Mapping[str, Mapping[int, Tensor]],
        inputs: Inputs,
        optimizers: tuple[Optimizer, ...],
    ) -> tuple[Equivalence, tuple[str, ...]]:
        """Narrows tensors, optimizer state and what modules say of their sizes; tells what was rewritten."""
        keep = self.keep | self.anatomy.is_layer
        expected = reference(model, self.anatomy, keep, inputs)
        for optimizer in optimizers:
            cut_state(optimizer, named(tensors), kept, self.tensors)
        _cut_tensors(tensors, kept, self.tensors)
        for path, module in model.named_modules():
            refresh(module, path, kept, self.attributes)
        return fit_attributes(model, self.anatomy, keep, kept, expected, inputs, self.attributes)


def _cut_tensors(tensors: Mapping[str, Tensor], kept: Mapping[str, Mapping[int, Tensor]], undo: Undo) -> None:
    for name, axes in kept.items():
        tensor = tensors[name]
        gradient = None if tensor.grad is None else select(tensor.grad, axes)
        resize(tensor, select(tensor, axes), undo)
        tensor.grad = gradient
