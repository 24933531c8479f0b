"""Cutting at once by leaving out layers, and then units of what they leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.cut import Form, Removal, Snapshot, flops_without, program_without, remove_blocks
from esper.anatomy.graph import Loss, Traced, bare, copied, trace
from esper.anatomy.proof import Equivalence, Inputs
from esper.anatomy.units import anatomy_of
from esper.batches import split_sample
from esper.compaction.choice import Quality
from esper.compaction.compacted import Compacted, outcome
from esper.compaction.configuration import Description, has_configuration
from esper.errors import SurgeryError

Rest = Callable[[nn.Module, float | None, float | None], Compacted]
"""Cuts units of what the layers have left: network, share of its FLOPs, share of its parameters."""


@dataclass(frozen=True, eq=False)
class Removing:
    """Layers to leave out.

    Attributes:
        names: names of residual blocks, or of modules that hold some.
        sample: one batch.
        loss: `loss(output, target)`.
        flops: share of the FLOPs to remove, layers included; None to remove the layers alone.
        parameters: share of the parameters to remove, instead.
        in_place: False leaves the network as it is.
        quality: on held-out samples; gives None where there are none.
    """

    names: Sequence[str]
    sample: Any
    loss: Loss | None
    flops: float | None
    parameters: float | None
    in_place: bool
    quality: Callable[[nn.Module, Traced, Anatomy], Quality | None]

    def run(self, model: nn.Module, optimizer: Optimizer | None, rest: Rest) -> Compacted:
        """Removes them, and what `rest` cuts; everything or nothing.

        Raises:
            UnknownPathError: there is no block of that name.
            SurgeryError: they cannot be removed; nothing changed.
        """
        before = self._look(model)
        if not self.in_place and self.flops is None and self.parameters is None:
            result = self._left_out(before)
        else:
            result = self._removed(model, before, optimizer, rest)
        quality = result.quality
        if quality is not None and before.quality is not None:
            start = before.quality
            quality = replace(quality, loss_before=start.loss_before, accuracy_before=start.accuracy_before)
        return replace(
            result,
            flops_before=before.anatomy.flops(),
            parameters_before=before.anatomy.parameters(),
            quality=quality,
            description=_description(model),
        )

    def _left_out(self, before: _Look) -> Compacted:
        """The program without them, and nothing else; `anatomy` is of the network with them."""
        made = program_without(bare(before.model), self.names, before.inputs)
        held = {id(p): p.numel() for p in made.program.parameters()}
        return replace(
            before.unchanged(made.equivalence),
            model=made.program.module(),
            program=made.program,
            blocks=made.rewritten,
            flops_after=flops_without(bare(before.model), self.names, self.sample, self.loss),
            parameters_after=sum(held.values()),
        )

    def _removed(self, model: nn.Module, before: _Look, optimizer: Optimizer | None, rest: Rest) -> Compacted:
        target = model if self.in_place else copied(bare(model))
        snapshot = Snapshot.of(bare(target))
        found: list[Compacted] = []

        def then(made: Removal) -> None:
            left = self._look(target)
            shares = (
                _rest_of(self.flops, before.anatomy.flops(), left.anatomy.flops()),
                _rest_of(self.parameters, before.anatomy.parameters(), left.anatomy.parameters()),
            )
            is_done = shares == (None, None)
            result = left.unchanged(made.equivalence) if is_done else rest(target, *shares)
            form, notes = _form(snapshot, bare(target), result) if self.in_place else (None, ())
            proof = result.proof.after(made.equivalence)
            notes = (*result.notes, *notes, *_left(made))
            found.append(replace(result, proof=proof, form=form, notes=notes, blocks=made.blocks))

        optimizers = (optimizer,) if optimizer is not None and self.in_place else ()
        remove_blocks(target, self.names, before.inputs, optimizers, then=then)
        return found[0]

    def _look(self, model: nn.Module) -> _Look:
        traced = trace(model, self.sample, self.loss)
        anatomy = anatomy_of(traced, bare(model))
        split = split_sample(self.sample, with_target=self.loss is not None, model=model)
        inputs = Inputs.of(split, is_batch_dynamic=traced.is_batch_dynamic)
        return _Look(model, anatomy, inputs, self.quality(bare(model), traced, anatomy))


@dataclass(frozen=True, eq=False)
class _Look:
    model: nn.Module
    anatomy: Anatomy
    inputs: Inputs
    quality: Quality | None

    def unchanged(self, proof: Equivalence) -> Compacted:
        keep = np.ones(self.anatomy.num_units, np.bool_)
        notes = () if self.quality is not None else ("The quality was not measured.",)
        return outcome(self.model, self.anatomy, keep, self.inputs, proof, notes=notes, quality=self.quality)


def _rest_of(share: float | None, before: float, left: float) -> float | None:
    """The share of what is left that is still to go; None if nothing is."""
    rest = 0.0 if share is None or not left else 1 - (1 - share) * before / left
    return rest if rest > 0 else None


def _form(before: Snapshot, network: nn.Module, result: Compacted) -> tuple[Form | None, tuple[str, ...]]:
    try:
        form = Form.between(before, network, [])
    except SurgeryError as error:
        return None, (str(error),)
    return (form if result.form is None else replace(form, kept=result.form.kept)), ()


def _left(made: Removal) -> tuple[str, ...]:
    if not made.left:
        return ()
    what = f"{made.left[0]} and {len(made.left) - 1} more" if len(made.left) > 1 else made.left[0]
    return (f"{what}: of the layers that went, but in modules that do something else too; not removed.",)


def _description(model: nn.Module) -> Description | None:
    if not has_configuration(model):
        return None
    return Description(False, {}, "layers were removed, and no number in it says which")
