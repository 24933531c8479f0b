"""How much of a mask the network's own code allows to be cut in place: tried on a copy first."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence

import numpy as np
from torch import nn

from esper.anatomy.cut.layer_units import PREFIX
from esper.anatomy.cut.removal import remove_blocks
from esper.anatomy.cut.surgery import cut, uncut
from esper.anatomy.proof import Inputs
from esper.anatomy.structure import Anatomy, Kind
from esper.arrays import BoolArray
from esper.errors import StructureError, SurgeryError


def refused_groups(model: nn.Module, anatomy: Anatomy, inputs: Inputs) -> dict[str, str]:
    """Groups that cannot be cut in place, and why. The network itself is not touched.

    Half of every group is removed at once; if that fails the groups are divided to find the culprits.

    Raises:
        SurgeryError: the network cannot be copied.
    """
    keep = np.ones(anatomy.num_units, dtype=np.bool_)
    for number, group in enumerate(anatomy.groups):
        keep[anatomy.unit_slice(number)][max(group.width - group.width // 2, group.least) :] = False
    return feasible(model, anatomy, keep, inputs)[1]


def refused_layers(model: nn.Module, anatomy: Anatomy, inputs: Inputs) -> dict[str, str]:
    """Layers that cannot be removed from the network, and why, by group. The network itself is not touched.

    All are removed at once, and one of each place in repeated layers alone, because one code made them; only
    what fails is tried one by one.

    Raises:
        SurgeryError: the network cannot be copied.
    """
    places: dict[str, list[str]] = {}
    for group in anatomy.groups:
        if group.kind is Kind.LAYER:
            places.setdefault(re.sub(r"\d+", "#", group.name), []).append(group.name)
    tried = _copied(model) if places else model

    def why_not(*names: str) -> str:
        try:
            made = remove_blocks(tried, [name.removeprefix(PREFIX) for name in names], inputs)
        except (StructureError, SurgeryError) as error:
            return str(error)
        made.undo.run()
        return ""

    layers = [name for names in places.values() for name in names]
    suspects = [name for names in places.values() if why_not(names[0]) for name in names]
    if len(suspects) < len(layers) and why_not(*layers):
        suspects = layers
    return {name: why for name in suspects if (why := why_not(name))}


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
    search = _Search(_copied(model), anatomy, keep, inputs)
    wanted = [n for n in range(len(anatomy.groups)) if not keep[anatomy.unit_slice(n)].all()]
    search.add(wanted)
    return search.mask(search.accepted), search.refused


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise SurgeryError(
            f"{type(model).__name__} cannot be copied ({error}), and Esper tries cuts on a copy first. "
            "Remove what cannot be copied (open files, locks, non-leaf tensors kept as attributes) from it."
        ) from error


class _Search:
    """Grows a set of groups that can be cut together."""

    def __init__(self, twin: nn.Module, anatomy: Anatomy, keep: BoolArray, inputs: Inputs) -> None:
        self.twin, self.anatomy, self.keep, self.inputs = twin, anatomy, keep, inputs
        self.accepted: list[int] = []
        self.refused: dict[str, str] = {}
        self._alike: dict[str, str] = {}

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
        uncut(self.twin, self.anatomy, made)
        return ""

    def _parts(self, groups: Sequence[int]) -> list[list[int]]:
        """Halves; the same place in repeated layers is one part, because one code made them."""
        places: dict[str, list[int]] = {}
        for number in groups:
            places.setdefault(re.sub(r"\d+", "#", self.anatomy.groups[number].name), []).append(number)
        if len(places) == 1:
            return [[n] for n in groups]
        each = list(places.values())
        middle = len(each) // 2
        return [[n for part in half for n in part] for half in (each[:middle], each[middle:])]
