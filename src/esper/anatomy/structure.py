"""The anatomy of a network as plain arrays: units, the tensor axes they run through, and what they cost.

A *unit* is the smallest thing that can be removed alone: one channel with everything coupled to it, one
attention head, or, where they were asked for, a whole layer. Units that run through the same axes form a
*group* (all channels of one residual stage, all heads of one attention layer, one layer). Everything is an
array per group; there is no Python object per channel.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from esper.arrays import BoolArray, IntArray
from esper.errors import MaskError, UnknownPathError
from esper.leyline import Level, encode, flat

Role = Literal["producer", "consumer", "companion", "direction"]

_MOST_ROWS = 60
"""Groups, and frozen axes, that an anatomy as text shows."""


class Kind(StrEnum):
    """What a unit is."""

    CHANNEL = "channel"
    HEAD = "head"
    EXPERT = "expert"
    LAYER = "layer"

    @property
    def level(self) -> Level:
        """The level of decisions that it belongs to: whole experts are decided on like heads."""
        return Level.HEAD if self is Kind.EXPERT else Level(self.value)


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one tensor that every unit of a group runs through.

    `index[u]` are the coordinates of unit `u` along `axis`: shape [width, coordinates per unit].
    A *producer* makes the unit's activation (weight rows, bias), a *consumer* reads it (weight columns), a
    *companion* goes along (norm affines, running statistics, depthwise filters). So does a *direction*, but
    the network divides it by its own length (weight norm): a mask zeroes the length beside it instead.
    """

    __stored_row__: ClassVar = ("tensor", "axis", "role", "index")

    tensor: str
    axis: int
    index: IntArray
    role: Role


@dataclass(frozen=True, eq=False)
class Group:
    """Units that run through the same tensor axes and can be removed one by one.

    `coupling` names the normalization through which removing a unit changes the others a little; empty if
    it can go without a trace. `least` is how many units the network needs: as many experts as every token
    is sent to, and none of a layer, which is a group of its own.
    """

    name: str
    kind: Kind
    width: int
    members: tuple[Member, ...]
    coupling: str = ""
    least: int = 1


@dataclass(frozen=True)
class FrozenAxis:
    """Coordinates that cannot be removed, and the operator that says so."""

    __stored_row__: ClassVar = ("name", "width", "reason")

    name: str
    width: int
    reason: str


@dataclass(frozen=True)
class TensorInfo:
    """A parameter or buffer as the network holds it; `aliases` are the other names of a tied tensor."""

    __stored_row__: ClassVar = ("name", "shape", "is_parameter", "aliases")

    name: str
    shape: tuple[int, ...]
    is_parameter: bool
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Term:
    """Work of one operator: `multiplier` x the product over `factors` of the coordinates that are kept.

    A factor lists, for every coordinate, the unit that owns it, or -1 where nothing can be removed.
    """

    __stored_row__: ClassVar = ("node", "multiplier", "factors")

    node: str
    multiplier: float
    factors: tuple[IntArray, ...]


@dataclass(frozen=True, eq=False)
class Gate:
    """Where units are read: argument `argument` of graph node `node`.

    `units` tells for every element (broadcast to the argument's shape) the unit that made it, or -1.
    Multiplying the argument by 0 where a unit stands removes the unit's effect exactly: it zeroes what the
    consumer's columns see.
    """

    __stored_row__: ClassVar = ("node", "argument", "shape", "units")

    node: str
    argument: int
    units: Annotated[IntArray, flat("shape", "units")]


@dataclass(frozen=True, eq=False)
class Coupling:
    """Where a normalization runs over units: along `axis` of the first argument of graph node `node`.

    `units` tells for every coordinate of that axis the unit that it goes with, or -1.
    """

    __stored_row__: ClassVar = ("node", "axis", "units")

    node: str
    axis: int
    units: IntArray


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What a network is made of. Unit `offsets[g] + i` is the i-th unit of group g."""

    tensors: tuple[TensorInfo, ...]
    groups: tuple[Group, ...]
    frozen: tuple[FrozenAxis, ...]
    terms: tuple[Term, ...]
    gates: tuple[Gate, ...] = ()
    activations: tuple[Term, ...] = ()
    """Elements that each contraction makes for one sample; elementwise work and memory follow them."""
    couplings: tuple[Coupling, ...] = ()
    """Normalizations over units; none unless approximation was allowed."""

    def __repr__(self) -> str:
        return _summary(self)

    @cached_property
    def offsets(self) -> IntArray:
        """First unit number of every group, and the total at the end: shape [groups + 1]."""
        return np.concatenate([[0], np.cumsum([g.width for g in self.groups])]).astype(np.int64)

    @property
    def num_units(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def group_of(self) -> IntArray:
        """The group of every unit: shape [units]."""
        return np.repeat(np.arange(len(self.groups)), [g.width for g in self.groups]).astype(np.int64)

    @cached_property
    def kind_of(self) -> NDArray[np.str_]:
        """The `Kind` of every unit: shape [units]."""
        return np.array([group.kind.value for group in self.groups], np.str_)[self.group_of]

    @cached_property
    def is_layer(self) -> BoolArray:
        """Units that are whole layers: shape [units]."""
        return np.asarray(self.kind_of == Kind.LAYER.value, np.bool_)

    def inside_removed(self, keep: BoolArray) -> BoolArray:
        """Units of which nothing is left because the layers that they lie in are gone: shape [units]."""
        self.check_mask(keep)
        layers = [self.groups[int(self.group_of[unit])] for unit in np.flatnonzero(self.is_layer & ~keep)]
        gone = {member.tensor for layer in layers for member in layer.members}
        parameters = {info.name for info in self.tensors if info.is_parameter}
        needed = [{m.tensor for m in group.members} & parameters for group in self.groups]
        return np.array([bool(each) and each <= gone for each in needed], np.bool_)[self.group_of]

    def unit_id(self, unit: int) -> str:
        """A name for people and records, stable for one anatomy: `layer1.conv1#3`."""
        group = int(self.group_of[unit])
        return f"{self.groups[group].name}#{unit - int(self.offsets[group])}"

    def unit_slice(self, group: int) -> slice:
        return slice(int(self.offsets[group]), int(self.offsets[group + 1]))

    def group_named(self, name: str) -> int:
        for number, group in enumerate(self.groups):
            if group.name == name:
                return number
        known = ", ".join(g.name for g in self.groups[:8])
        raise UnknownPathError(f"No group named {name!r}. Groups of this network begin with: {known}.")

    def check_mask(self, keep: BoolArray) -> None:
        """Refuses a mask of another network before anything is touched."""
        if keep.shape != (self.num_units,) or keep.dtype != np.bool_:
            raise MaskError(
                f"A mask of shape {keep.shape} and type {keep.dtype} does not fit: this network has "
                f"{self.num_units} units, so a mask is a bool array of shape ({self.num_units},)."
            )

    def removed_indices(self, keep: BoolArray) -> dict[tuple[str, int], IntArray]:
        """For every (tensor, axis) that loses something: the sorted coordinates that go."""
        self.check_mask(keep)
        lost: dict[tuple[str, int], list[IntArray]] = {}
        for number, group in enumerate(self.groups):
            gone = np.flatnonzero(~keep[self.unit_slice(number)])
            if gone.size == 0:
                continue
            for member in group.members:
                lost.setdefault((member.tensor, member.axis), []).append(member.index[gone].ravel())
        return {key: np.unique(np.concatenate(parts)) for key, parts in lost.items()}

    def left_of_statistics(self, keep: BoolArray) -> dict[tuple[str, int], IntArray]:
        """For every (node, axis) whose normalization loses something: the sorted coordinates that stay."""
        self.check_mask(keep)
        stays = np.append(keep, True)  # the last entry serves "no unit" (-1)
        left = {(c.node, c.axis): stays[c.units] for c in self.couplings}
        return {key: np.flatnonzero(is_left) for key, is_left in left.items() if not is_left.all()}

    def kept_shapes(self, keep: BoolArray) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor after the cut."""
        lost = self.removed_indices(keep)
        return {
            info.name: tuple(
                size - (lost[info.name, axis].size if (info.name, axis) in lost else 0)
                for axis, size in enumerate(info.shape)
            )
            for info in self.tensors
        }

    def parameters(self, keep: BoolArray | None = None) -> int:
        """Number of parameters that are left (tied tensors counted once)."""
        shapes = {t.name: t.shape for t in self.tensors} if keep is None else self.kept_shapes(keep)
        return sum(int(np.prod(shapes[t.name])) for t in self.tensors if t.is_parameter)

    def counts(self, units: BoolArray) -> IntArray:
        """How many units of every group a mask marks: shape [groups]."""
        return np.bincount(self.group_of[units], minlength=len(self.groups)).astype(np.int64)

    def flops(self, keep: BoolArray | None = None) -> float:
        """Floating-point operations of one forward pass of one sample: 2 per multiply-add."""
        if keep is not None:
            self.check_mask(keep)
        return float(sum(self._term_work(term, keep) for term in self.terms))

    @staticmethod
    def _term_work(term: Term, keep: BoolArray | None) -> float:
        work = term.multiplier
        for factor in term.factors:
            work *= factor.size if keep is None else int(((factor < 0) | keep[factor]).sum())
        return work

    @cached_property
    def digest(self) -> str:
        """Names this structure: equal for equal structure in every process."""
        return hashlib.sha256(json.dumps(encode(self), sort_keys=True).encode()).hexdigest()


def _summary(anatomy: Anatomy) -> str:
    """One line per group and per frozen axis; cost shares are those of removing the whole group alone."""
    flops, parameters = anatomy.flops(), anatomy.parameters()
    lines = [f"{anatomy.num_units} units in {len(anatomy.groups)} groups"]
    lines[0] += f"; {parameters:,} parameters, {flops / 1e6:,.2f} MFLOPs per sample"
    width = max(
        [len(group.name) for group in anatomy.groups] + [len(axis.name) for axis in anatomy.frozen] + [8]
    )
    for number, group in enumerate(anatomy.groups[:_MOST_ROWS]):
        keep = anatomy.group_of != number
        share = 1 - anatomy.flops(keep) / flops if flops else 0.0
        of_parameters = 1 - anatomy.parameters(keep) / max(parameters, 1)
        others = sum(member.role in ("producer", "consumer") for member in group.members) - 1
        lines.append(
            f"  {group.name:{width}}  {group.kind.value:7} {group.width:6}  {share:6.1%} FLOPs  "
            f"{of_parameters:6.1%} parameters  coupled with {others} weights"
            f"{', approximate' if group.coupling else ''}"
        )
    hidden = len(anatomy.groups) - _MOST_ROWS
    if hidden > 0:
        lines.append(f"  ... and {hidden} more groups")
    lines += [
        f"  {axis.name:{width}}  frozen  {axis.width:6}  {axis.reason}"
        for axis in anatomy.frozen[:_MOST_ROWS]
    ]
    return "\n".join(lines)
