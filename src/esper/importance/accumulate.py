"""Sums over units: an elementwise quantity of the parameters, added up over the coordinates of every unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper.anatomy import Anatomy, Role
from esper.arrays import BoolArray, IntArray
from esper.errors import StructureError

ALL_ROLES: tuple[Role, ...] = ("producer", "consumer", "companion")

Quantity = Callable[[str], Tensor | None]
"""Gives the tensor of values for a parameter of that name, in its shape; None where there are none."""


def real_parts(values: Tensor) -> Tensor:
    """A complex tensor as real and imaginary parts along a new last axis; others are what they are."""
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis that is summed down to a vector: where its values lie in the joined vector."""

    tensor: str
    axis: int
    shape: tuple[int, ...]
    first: int

    def vector(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """`values` summed over every other axis: shape [coordinates]."""
        others = [axis for axis in range(values.dim()) if axis != self.axis]
        # Added up in `dtype` whatever the values come in: half precision would lose small terms.
        return values.sum(others, dtype=dtype) if others else values.to(dtype)


class UnitReducer:
    """Adds up a quantity over each unit's coordinates: one reduction per tensor axis, one scatter in all.

    Only parameters are read, never buffers. Where a unit runs through two axes of one tensor, the entries
    at which they cross count once for each.

    Args:
        anatomy: The network's units.
        roles: Members to read, all by default; consumers alone give the unit's first-order Taylor term.
        min_dims: Tensors with fewer axes are left out; 2 leaves biases and norm affines out.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        roles: tuple[Role, ...] = ALL_ROLES,
        min_dims: int = 0,
    ) -> None:
        self.num_units = anatomy.num_units
        shapes = {t.name: t.shape for t in anatomy.tensors if t.is_parameter and len(t.shape) >= min_dims}
        axes: dict[tuple[str, int], _Axis] = {}
        # The table of the scatter: row r adds `joined[positions[r]]` to `units[r]`. `joined` holds one
        # vector for every axis that a member lies on, end to end; members of several groups may lie on the
        # same axis.
        positions, units, tensors = [np.empty(0, np.int64)], [np.empty(0, np.int64)], []
        length = 0
        for number, group in enumerate(anatomy.groups):
            members = [m for m in group.members if m.role in roles and m.tensor in shapes]
            for member in members:
                key = (member.tensor, member.axis)
                if key not in axes:
                    axes[key] = _Axis(member.tensor, member.axis, shapes[member.tensor], length)
                    length += shapes[member.tensor][member.axis]
                # `index` is [width, coordinates of each unit]; positions and owners are both listed unit by
                # unit.
                positions.append((axes[key].first + member.index).ravel())
                owner = anatomy.offsets[number] + np.arange(group.width)
                units.append(np.repeat(owner, member.index.shape[1]))
            tensors.append(frozenset(m.tensor for m in members))
        self._axes_of: dict[str, list[_Axis]] = {}
        for axis in axes.values():
            self._axes_of.setdefault(axis.tensor, []).append(axis)
        self._length = length
        # A coordinate of an axis stands for one slice of the tensor: as many elements as its other axes
        # have.
        rows = [
            np.full(a.shape[a.axis], math.prod(a.shape) // max(a.shape[a.axis], 1)) for a in axes.values()
        ]
        self._elements: IntArray = np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64)
        self._positions: IntArray = np.concatenate(positions)
        self._units: IntArray = np.concatenate(units)
        self._tensors_of_group = tuple(tensors)
        self._group_of = anatomy.group_of
        self._placed: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the parameters that are read."""
        return tuple(self._axes_of)

    @property
    def elements(self) -> IntArray:
        """Number of tensor elements that are added up for every unit: shape [units]."""
        count = np.zeros(self.num_units, np.int64)
        np.add.at(count, self._units, self._elements[self._positions])
        return count

    def covered(self, names: Collection[str]) -> BoolArray:
        """The units whose every parameter is among `names` (and that have one): shape [units]."""
        available = frozenset(names)
        whole = [bool(needed) and needed <= available for needed in self._tensors_of_group]
        return np.array(whole, np.bool_)[self._group_of] if whole else np.zeros(0, np.bool_)

    def touched(self, names: Collection[str]) -> BoolArray:
        """The units with at least one parameter among `names`: shape [units]."""
        available = frozenset(names)
        some = [bool(needed & available) for needed in self._tensors_of_group]
        return np.array(some, np.bool_)[self._group_of] if some else np.zeros(0, np.bool_)

    def sum(self, quantity: Quantity, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """The sum of `quantity` over every unit's coordinates: shape [units], on `device`.

        Args:
            quantity: Called once for each of `tensors`; None adds nothing.
            device: Where the sums are wanted.
            dtype: Type in which to add up.

        Raises:
            StructureError: A tensor does not have the shape that the anatomy states.
        """
        joined = self.begin(device, dtype)
        for name in self._axes_of:
            values = quantity(name)
            if values is not None:
                self.take(joined, name, values)
        return self.end(joined)

    def begin(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
        """For several quantities at once: what `take` fills, tensor after tensor, and `end` adds up."""
        return torch.zeros(self._length, dtype=dtype, device=device)

    def take(self, joined: Tensor, name: str, values: Tensor, rows: slice | None = None) -> None:
        """Takes in the values of one parameter or of some of its rows; one that no unit reads is passed over.

        Raises:
            StructureError: It does not have the shape that the anatomy states.
        """
        axes = self._axes_of.get(name, [])
        if axes and rows is None:
            self.check(name, values)
        for axis in axes:
            vector = axis.vector(values, joined.dtype)
            if rows is None:
                self._part(joined, axis).copy_(vector, non_blocking=True)
            # A block of rows holds some coordinates of axis 0 whole, and of every other axis a part of each
            # sum.
            elif axis.axis == 0:
                self._part(joined, axis)[rows] = vector
            else:
                self._part(joined, axis).add_(vector)

    def check(self, name: str, tensor: Tensor) -> None:
        """Refuses a tensor that does not have the shape that the anatomy states.

        Raises:
            StructureError: It has not.
        """
        _check_shape(name, tuple(tensor.shape), self._axes_of[name][0].shape)

    def scale(self, joined: Tensor, name: str, factor: Tensor | float) -> None:
        """Multiplies what was taken in of one parameter."""
        for axis in self._axes_of.get(name, []):
            self._part(joined, axis).mul_(factor)

    def total(self, joined: Tensor, name: str) -> Tensor:
        """The sum over all elements that were taken in of one of `tensors`: a scalar."""
        # Along any of its axes all elements are summed exactly once, so the first will do.
        return self._part(joined, self._axes_of[name][0]).sum()

    @staticmethod
    def _part(joined: Tensor, axis: _Axis) -> Tensor:
        return joined[axis.first : axis.first + axis.shape[axis.axis]]

    def end(self, joined: Tensor) -> Tensor:
        """The sum over every unit's coordinates: shape [units]."""
        positions, units = self._on(joined.device)
        # A gather to [rows of the table] and a scatter to [units]: two kernels, however many tensors there
        # are.
        total = torch.zeros(self.num_units, dtype=joined.dtype, device=joined.device)
        return total.index_add_(0, units, joined.index_select(0, positions))

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._placed:
            self._placed[device] = (
                torch.from_numpy(self._positions).to(device),
                torch.from_numpy(self._units).to(device),
            )
        return self._placed[device]


def stored_names(anatomy: Anatomy, given: Collection[str]) -> dict[str, str]:
    """For every tensor of the anatomy the name, its own or a tied one, under which `given` has it."""
    names: dict[str, str] = {}
    for info in anatomy.tensors:
        for name in (info.name, *info.aliases):
            if name in given:
                names[info.name] = name
                break
    return names


def by_anatomy_name(anatomy: Anatomy, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the anatomy's names: a tied tensor may come under any of its names."""
    return {name: tensors[given] for name, given in stored_names(anatomy, tensors.keys()).items()}


def _check_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise StructureError(
            f"Parameter {name!r} has shape {found}, but the anatomy says {expected}: it changed after "
            "it was inspected. Inspect it again and rebind what was built on the old anatomy."
        )
