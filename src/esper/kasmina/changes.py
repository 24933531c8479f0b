"""Changes of a network's structure, as values: recorded, made again in another process, and taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import nn
from torch.optim import Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.cut import Cut
from esper.arrays import BoolArray, IntArray

Record = Mapping[str, Any]
"""What a checkpoint keeps of a change: its `kind`, the digest of the `anatomy` before, and what it did."""


class Change(Protocol):
    """What altered the structure of a network.

    Attributes:
        kind: names this sort of change in records.
        before: the anatomy that it was made in.
        origin: for every unit after it the one that it was before, or -1: int [units after].
    """

    kind: ClassVar[str]

    @property
    def before(self) -> Anatomy: ...

    @property
    def origin(self) -> IntArray: ...

    @property
    def kept(self) -> Mapping[str, Mapping[int, Any]]:
        """Coordinates that stayed, by tensor and axis."""
        ...

    def record(self) -> dict[str, Any]:
        """With which `LiveNetwork.load` makes it again in a fresh network."""
        ...

    def undo(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Takes it back: shapes, attributes and classes are those of before; values come from elsewhere."""
        ...


@dataclass(frozen=True, eq=False)
class UnitsCut:
    """Masked units were cut out for good."""

    cut: Cut
    origin: IntArray
    kind: ClassVar[str] = "cut"

    @property
    def before(self) -> Anatomy:
        return self.cut.anatomy

    @property
    def kept(self) -> Mapping[str, Mapping[int, Any]]:
        return self.cut.kept

    @cached_property
    def numbers(self) -> IntArray:
        """For every unit from before the cut its number after it, or -1: shape [units before]."""
        numbers = np.full(self.before.num_units, -1, np.int64)
        after = np.arange(self.origin.size)[::-1]  # of several parts that came apart, the first
        known = self.origin[after] >= 0
        numbers[self.origin[after[known]]] = after[known]
        return numbers

    def carried(self, mask: BoolArray) -> BoolArray:
        """A mask from before in the numbers of after: shape [units after]."""
        return np.append(mask, True)[self.origin]  # the last entry serves units that could not go before (-1)

    def record(self) -> dict[str, Any]:
        removed = np.flatnonzero(~self.cut.keep).tolist()
        return {"kind": self.kind, "anatomy": self.before.digest, "removed": removed}

    def undo(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.cut.undo(model, (optimizer,))


def same_change(change: Change, record: Record) -> bool:
    """Whether a record is of this very change; those that name no kind are of cuts."""
    return change.record() == {"kind": UnitsCut.kind, **record}
