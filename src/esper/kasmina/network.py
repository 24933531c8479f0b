"""The live network: its anatomy and twin, what is masked, what was cut, and how to go back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.cut import (
    Cut,
    Removal,
    WeightCopies,
    block_names,
    copy_in,
    cut,
    refused_groups,
    refused_layers,
    remove_blocks,
    uncut,
    with_layers,
)
from esper.anatomy.graph import Loss, bare, changed_inputs, copied, loss_tensors, renew, trace
from esper.anatomy.proof import Inputs, Undo
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of
from esper.arrays import BoolArray, IntArray
from esper.batches import split_sample
from esper.errors import CheckpointError, StructureError, SurgeryError, UntraceableError
from esper.kasmina.held import HANDS
from esper.kasmina.masks import MaskKeeper
from esper.kasmina.numbers import carried_over, mask_after, numbers_after

_ANOTHER = (
    "This network is not the one that the run started with: its structure differs from the one that was cut. "
    "Build the model exactly as for the first run and resume again."
)


@dataclass(frozen=True, eq=False)
class PastCut:
    """One cut of this process: enough to take it back, and to make it again in another process."""

    anatomy: Anatomy
    keep: BoolArray
    made: Cut
    without_layers: Anatomy
    """Of the network without the layers that went, with which the rest was cut; `anatomy` if none did."""
    removal: Removal | None = None
    """How the layers went."""

    def record(self) -> dict[str, Any]:
        """For a checkpoint: which units of which anatomy went."""
        return {"anatomy": self.anatomy.digest, "removed": np.flatnonzero(~self.keep).tolist()}


@dataclass(frozen=True, eq=False)
class _Look:
    """What a trace showed."""

    anatomy: Anatomy
    twin: Twin
    inputs: Inputs


class LiveNetwork:
    """A network in training, with everything about its structure.

    Args:
        model: the user's network.
        optimizer: the optimizer that trains it.
        sample: one batch `(input, target)`.
        loss: `loss(output, target)`.
        companions: modules that hold a copy of the network, and are masked and cut with it.
        layers: whether whole residual layers are units too.

    Raises:
        ConfigError: a session holds the network or its optimizer already.
        UntraceableError: it cannot be traced.

    Attributes:
        model: the network itself.
        given: the network as the user has it, perhaps compiled or in `DistributedDataParallel`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        sample: Any,
        loss: Loss,
        companions: Sequence[nn.Module] = (),
        *,
        layers: bool = False,
    ) -> None:
        HANDS.refuse_held(bare(model), optimizer)
        self.given, self.model = model, bare(model)
        self.companions = tuple(companions)
        self.optimizer = optimizer
        self.cuts: list[PastCut] = []
        self.original: nn.Module | None = None
        """A copy from before the first cut, to compare with."""
        self.loss = loss
        self.anatomy: Anatomy
        self.twin: bytes
        self.graph: Twin
        """The twin, to run on live tensors."""
        self.inputs: Inputs
        """Inputs to prove cuts on."""
        self.masks: MaskKeeper
        self._sample, self._layers = sample, layers
        self._show(self._look())
        self.refused: dict[str, str] = {
            **refused_groups(self.model, self.anatomy, self.inputs),
            **refused_layers(self.model, self.anatomy, self.inputs),
        }
        """Groups that the network's own code does not let be cut, and why: by name, for the whole run."""
        HANDS.take(self)

    def cuttable_units(self) -> BoolArray:
        """Units whose group can be cut, and that are not gone with their layer: bool [units]."""
        per_group = np.array([group.name not in self.refused for group in self.anatomy.groups], np.bool_)
        return per_group[self.anatomy.group_of] & ~self.anatomy.inside_removed(self.masks.keep)

    def _look(self) -> _Look:
        """Traces the network as it is now; nothing changes."""
        traced = trace(self.model, self._sample, self.loss)
        for name, line in changed_inputs(traced.program).items():
            raise UntraceableError(
                f"The network (or its loss) writes into its input {name} ({line}), so held-out batches would "
                "be different at every look. Nothing was changed. Write `x = x * 2` instead of `x.mul_(2)`, "
                "or begin with `x = x.clone()`."
            )
        anatomy, twin = anatomy_of(traced, self.model), Twin.of(traced)
        if self._layers:
            anatomy = with_layers(anatomy, traced, self.tensors(), self._sample)
        split = split_sample(self._sample, with_target=True, model=self.model)
        return _Look(anatomy, twin, Inputs.of(split, is_batch_dynamic=twin.is_batch_dynamic))

    def _show(self, look: _Look) -> None:
        """From now on this is what the network is; nothing is masked."""
        self.anatomy, self.graph, self.inputs = look.anatomy, look.twin, look.inputs
        self.twin = look.twin.to_bytes()
        self.masks = MaskKeeper(self.model, self.anatomy, (self.optimizer,), self.companions)

    def cut_masked(self, left: BoolArray | None = None) -> tuple[Cut, IntArray]:
        """Removes masked units for good.

        Args:
            left: bool [units]; the masked units that it marks True stay masked. None: all go.

        Returns:
            What was done, and for every old unit its new number or -1.

        Raises:
            SurgeryError: it cannot be done; the network is still masked, as before.
        """
        before, masks, masked = self.anatomy, self.masks, self.masks.keep.copy()
        keep = masked.copy() if left is None else masked | left
        if self.original is None:
            self.original = copied(self.model)
        masks.unmask(but=keep)  # what stays masked is hidden again below, with the values of the new shapes
        try:
            past = self._without_layers(before, keep) or self._cut(before, keep)
        except SurgeryError:
            masks.apply(masked)
            raise
        masks.detach()
        self.cuts.append(past)
        numbers = numbers_after(before, keep, past.without_layers, self.anatomy)
        self.masks.apply(mask_after(before, keep, masked, past.without_layers, self.anatomy))
        return past.made, numbers

    def _without_layers(self, before: Anatomy, keep: BoolArray) -> PastCut | None:
        """Removes the layers that go, and then units of what is left; None if no layer goes."""
        names = block_names(before, np.flatnonzero(before.is_layer & ~keep))
        done: list[PastCut] = []

        def rest(removal: Removal) -> None:
            look = self._look_again()
            _check_gone(self.model, before, keep, removal)
            left = carried_over(before, keep, look.anatomy)
            if left.all():
                self._show(look)
                made = Cut(
                    look.anatomy,
                    left,
                    removal.equivalence,
                    {},
                    removal.parameters_before,
                    removal.parameters_after,
                    (),
                    Undo(),
                )
            else:
                made = self._cut(look.anatomy, left).made
                equal = made.equivalence.after(removal.equivalence)
                made = replace(made, equivalence=equal, parameters_before=removal.parameters_before)
            done.append(PastCut(before, keep, made, look.anatomy, removal))

        if names:
            try:
                remove_blocks(self.given, names, self.inputs, (self.optimizer,), self.companions, then=rest)
            except StructureError as error:
                raise SurgeryError(f"A layer cannot be removed: {error}") from error
        return done[0] if done else None

    def _cut(self, before: Anatomy, keep: BoolArray) -> PastCut:
        """Removes units that are no layers."""
        optimizers, companions = (self.optimizer,), self.companions

        def then() -> None:
            self._show(self._look_again())

        made = cut(self.given, before, keep, self.inputs, optimizers, companions, then=then)
        return PastCut(before, keep, made, before)

    def _look_again(self) -> _Look:
        try:
            return self._look()
        except StructureError as error:
            raise SurgeryError(f"The cut network cannot be traced, so the cut was undone: {error}") from error

    def take_back_cuts(self, remaining: int) -> None:
        """Takes back all but the first `remaining` cuts: shapes, attributes and classes are those of then.

        Values are not, until a checkpoint is restored.
        """
        if remaining >= len(self.cuts):
            return
        self.masks.detach()
        while len(self.cuts) > remaining:
            past = self.cuts.pop()
            uncut(self.given, past.without_layers, past.made, (self.optimizer,))
            if past.removal is not None:
                past.removal.undo.run()
                renew(self.given)
        self._show(self._look())

    def renew_masks(self) -> None:
        """Forgets all masks without restoring anything: a checkpoint is about to be."""
        self.masks.detach()
        self.masks = MaskKeeper(self.model, self.anatomy, (self.optimizer,), self.companions)

    def make_cuts(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Makes recorded cuts in a fresh network, so that a checkpoint from after them can be restored.

        Raises:
            CheckpointError: the network is not the one that was cut.
        """
        for record in records:
            if record["anatomy"] != self.anatomy.digest:
                raise CheckpointError(_ANOTHER)
            keep = np.ones(self.anatomy.num_units, dtype=np.bool_)
            keep[record["removed"]] = False
            self.masks.apply(keep)
            self.cut_masked()

    def tensors(self) -> dict[str, Tensor]:
        """The live parameters and buffers by name, for the graph: the network's, and those of its loss."""
        own = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        live = {**own, **loss_tensors(self.loss)}
        return {name: value.detach() for name, value in live.items()}

    def adjust(self, changes: Mapping[str, Tensor], sign: int = 1) -> None:
        """Adds `sign` times these changes to parameters, by name; copies of them get them too."""
        copies = [copy_in(companion, self.model, self.anatomy) for companion in self.companions]
        for network in (self.model, *copies):
            tensors = dict(network.named_parameters())
            for name, change in changes.items():
                tensors[name].detach().add_(change, alpha=sign)
        in_state, parameters = WeightCopies((self.optimizer,)), self.named_parameters()
        with torch.no_grad():
            for name, change in changes.items():
                in_state.add(parameters[name], change, sign)

    def parameter_names(self) -> list[str]:
        """The names of the optimizer's parameters, in the order in which its state numbers them."""
        tensors = {**loss_tensors(self.loss), **self.named_parameters()}
        names = {id(tensor): name for name, tensor in tensors.items()}
        return [names.get(id(p), "") for group in self.optimizer.param_groups for p in group["params"]]

    def named_parameters(self) -> dict[str, Tensor]:
        return dict(self.model.named_parameters())

    def detach(self) -> None:
        HANDS.let_go(self)
        self.masks.detach()

    def state(self) -> dict[str, Any]:
        """Its structure: what was cut, in itself and in its companions."""
        return {"cuts": [past.record() for past in self.cuts], "companions": len(self.companions)}

    def check(self, state: Mapping[str, Any]) -> None:
        """Refuses the cuts of another network, or of one with other companions; changes nothing.

        Raises:
            CheckpointError: it says what is different.
        """
        if len(self.companions) != state["companions"]:
            raise CheckpointError(
                f"The checkpoint holds {state['companions']} companion(s), and {len(self.companions)} were "
                "given. Give the same ones in the same order as when the run began, as `companions=`. "
                "Nothing was changed."
            )
        whole = self.cuts[0].anatomy if self.cuts else self.anatomy
        if state["cuts"] and state["cuts"][0]["anatomy"] != whole.digest:
            raise CheckpointError(f"{_ANOTHER} Nothing was changed.")

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes back the cuts that are not among those, and makes the others again.

        Where that changes anything, nothing is masked afterwards, and values are those of no moment until a
        checkpoint's are loaded.
        """
        mine, theirs = self.state()["cuts"], list(state["cuts"])
        same = next(
            (n for n, (one, other) in enumerate(zip(mine, theirs, strict=False)) if one != dict(other)),
            min(len(mine), len(theirs)),
        )
        self.take_back_cuts(same)
        if same < len(theirs):
            self.renew_masks()
            self.make_cuts(theirs[same:])


def _check_gone(model: nn.Module, before: Anatomy, keep: BoolArray, removal: Removal) -> None:
    """What was removed must be what was masked, all of it."""
    gone = [before.groups[int(before.group_of[unit])] for unit in np.flatnonzero(before.is_layer & ~keep)]
    held = dict(model.named_parameters()).keys() - set(removal.left)
    stays = sorted({member.tensor for group in gone for member in group.members} & held)
    if stays:
        raise SurgeryError(
            f"{stays[0]} belongs to a layer that was masked and would not go with it. Nothing was changed."
        )
