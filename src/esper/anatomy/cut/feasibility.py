"""How much of a mask the network's own code allows to be cut in place: tried on a copy first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from esper.anatomy.cut.live import cut
from esper.anatomy.cut.result import Cut
from esper.anatomy.graph import copied, named_tensors
from esper.anatomy.proof import Inputs
from esper.anatomy.structure import Anatomy, Kind
from esper.arrays import BoolArray
from esper.errors import StructureError, SurgeryError


def refused_groups(model: nn.Module, anatomy: Anatomy, inputs: Inputs) -> dict[str, str]:
    """Groups that cannot be cut in place, and why. The network itself is not touched.

    Half of every group is removed at once, and what fails is divided to find the culprits. Code may also
    demand that two widths stay equal, or replace a module only where another group goes as well; so for any
    two kinds of groups there is one more trial, of outputs alone, in which the first goes and the second
    stays whole: twice the binary digits of the number of kinds. Every trial is on as few samples as will do:
    the cut itself is proven on more.

    Raises:
        SurgeryError: the network cannot be copied.
    """
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    for number, group in enumerate(anatomy.groups):
        keep[anatomy.unit_slice(number)][max(group.width - group.width // 2, group.least) :] = False
    twin, inputs = copied(model), inputs.few()
    together = _found(model, twin, anatomy, keep, inputs)
    refused = dict(together.refused)
    kinds = list(_places(anatomy, together.accepted).values())
    for digit in range((len(kinds) - 1).bit_length()):
        for value in (0, 1):
            some = [n for number, kind in enumerate(kinds) if number >> digit & 1 == value for n in kind]
            trial = _Search(model, twin, anatomy, keep, replace(inputs, is_quick=True))
            trial.add([n for n in some if anatomy.groups[n].name not in refused])
            refused |= trial.refused
    return refused


def refusals(model: nn.Module, anatomy: Anatomy, inputs: Inputs) -> dict[str, str]:
    """Groups and whole layers that cannot be cut, and why, by the group's name; nothing is touched.

    Raises:
        SurgeryError: the network cannot be copied.
    """
    return {**refused_groups(model, anatomy, inputs), **refused_layers(model, anatomy, inputs)}


def refused_layers(model: nn.Module, anatomy: Anatomy, inputs: Inputs) -> dict[str, str]:
    """Layers that cannot be removed from the network, and why, by group. The network itself is not touched.

    All are removed at once, proven in full, and one of each place in repeated layers alone, by its outputs,
    because one code made them; only what fails is tried one by one.

    Raises:
        SurgeryError: the network cannot be copied.
    """
    layers = [number for number, group in enumerate(anatomy.groups) if group.kind is Kind.LAYER]
    tried, inputs = copied(model) if layers else model, inputs.few()

    def why_not(*numbers: int, by: Inputs = inputs) -> str:
        keep = np.ones(anatomy.num_units, np.bool_)
        keep[anatomy.offsets[list(numbers)]] = False
        try:
            cut(tried, anatomy, keep, by).undo(tried)
        except (StructureError, SurgeryError) as error:
            return str(error)
        return ""

    quick = replace(inputs, is_quick=True)
    places = _places(anatomy, layers).values()
    suspects = [n for place in places if why_not(place[0], by=quick) for n in place]
    if len(suspects) < len(layers) and why_not(*layers):
        suspects = layers
    return {anatomy.groups[n].name: why for n in suspects if (why := why_not(n))}


def feasible(
    model: nn.Module, anatomy: Anatomy, keep: BoolArray, inputs: Inputs
) -> tuple[BoolArray, dict[str, str]]:
    """The part of a mask that can be cut in place at once, and the groups that must stay whole, with reasons.

    Args:
        model: the live network; it is not touched.
        anatomy: its anatomy.
        keep: bool [units], the mask that is wanted.
        inputs: inputs to prove equality on.

    Raises:
        MaskError: `keep` does not fit the anatomy.
        SurgeryError: the network cannot be copied.
    """
    anatomy.check_mask(keep)
    search = _found(model, copied(model), anatomy, keep, inputs)
    return search.mask(search.accepted), search.refused


def _found(model: nn.Module, twin: nn.Module, anatomy: Anatomy, keep: BoolArray, inputs: Inputs) -> _Search:
    """Searched by outputs alone, then proven in full; where the proof says more, searched by that."""
    wanted = [n for n in range(len(anatomy.groups)) if not keep[anatomy.unit_slice(n)].all()]
    quick = _Search(model, twin, anatomy, keep, replace(inputs, is_quick=True))
    quick.add(wanted)
    search = _Search(model, twin, anatomy, keep, inputs)
    search.add(quick.accepted)
    search.refused |= quick.refused
    return search


def _places(anatomy: Anatomy, groups: Sequence[int]) -> dict[str, list[int]]:
    """Groups by place: the same one in repeated layers is one kind, because one code made them."""
    places: dict[str, list[int]] = {}
    for number in groups:
        places.setdefault(re.sub(r"\d+", "#", anatomy.groups[number].name), []).append(number)
    return places


def put_back(twin: nn.Module, model: nn.Module, made: Cut) -> None:
    """Takes back a cut of a copy, so that shapes and values are those of the network again."""
    made.undo(twin)
    theirs, ours = named_tensors(model), named_tensors(twin)
    with torch.no_grad():
        for name in made.kept:
            ours[name].copy_(theirs[name])


@dataclass(eq=False)
class _Search:
    """Grows a set of groups that can be cut together, by trials on a copy of the network."""

    model: nn.Module
    twin: nn.Module
    anatomy: Anatomy
    keep: BoolArray
    inputs: Inputs
    accepted: list[int] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def mask(self, groups: Sequence[int]) -> BoolArray:
        """What is wanted, of these groups only."""
        chosen = np.isin(self.anatomy.group_of, np.asarray(groups, np.int64))
        return self.keep | ~chosen

    def add(self, groups: Sequence[int]) -> None:
        """Accepts what can be cut beside what is accepted already, and refuses the rest."""
        if not groups:
            return
        why = self._why_not([*self.accepted, *groups])
        if not why:
            self.accepted.extend(groups)
            return
        parts = self._parts(groups)
        if len(parts) == 1:
            self.refused.update({self.anatomy.groups[n].name: why for n in groups})
        else:
            for part in parts:
                self.add(part)

    def _why_not(self, groups: Sequence[int]) -> str:
        try:
            made = cut(self.twin, self.anatomy, self.mask(groups), self.inputs)
        except SurgeryError as error:
            return str(error)
        put_back(self.twin, self.model, made)
        return ""

    def _parts(self, groups: Sequence[int]) -> list[list[int]]:
        """Halves; groups of one kind are one part."""
        each = list(_places(self.anatomy, groups).values())
        if len(each) == 1:
            return [[n] for n in groups]
        middle = len(each) // 2
        return [[n for part in half for n in part] for half in (each[:middle], each[middle:])]
