"""Changes of a network's structure, as values: recorded, made again in another process, and taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from torch import nn
from torch.optim import Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.cut import Cut, origin_of
from esper.anatomy.graph import bare, copied
from esper.arrays import BoolArray, IntArray
from esper.errors import CheckpointError, StructureError
from esper.kasmina.seeds import Recipe
from esper.leyline import decode, encode
from esper.tezzeret import blueprint

if TYPE_CHECKING:
    from esper.kasmina.network import LiveNetwork

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
    def numbers(self) -> IntArray:
        """For every unit from before it its number after it, or -1: int [units before]."""
        ...

    @property
    def kept(self) -> Mapping[str, Mapping[int, Any]]:
        """Coordinates that stayed, by tensor and axis."""
        ...

    def record(self) -> dict[str, Any]:
        """With which `LiveNetwork.load` makes it again in a fresh network."""
        ...

    def undo(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Takes it back: shapes, attributes and classes are those of before; values come from elsewhere.

        Args:
            model: the network.
            optimizers: those that train it; what grows is the first one's.
        """
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
        return _numbers_after(self)

    def carried(self, mask: BoolArray) -> BoolArray:
        """A mask from before in the numbers of after: shape [units after]."""
        return np.append(mask, True)[self.origin]  # the last entry serves units that could not go before (-1)

    def record(self) -> dict[str, Any]:
        keep = self.cut.keep
        inside = np.flatnonzero(keep & self.before.inside_removed(keep)).tolist()
        removed = np.flatnonzero(~keep).tolist()
        return {"kind": self.kind, "anatomy": self.before.digest, "removed": removed, "inside": inside}

    def undo(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self.cut.undo(model, tuple(optimizers))


@dataclass(frozen=True, eq=False)
class SeedJoined:
    """A seed has become a part of the network: a `Grown` stands where its host stood."""

    recipe: Recipe
    before: Anatomy
    origin: IntArray
    copies: Sequence[nn.Module] = ()
    """Of the network, in which the same has grown."""
    kept: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    kind: ClassVar[str] = "fossilize"

    @classmethod
    def of(cls, recipe: Recipe, copies: Sequence[nn.Module], before: Anatomy, after: Anatomy) -> SeedJoined:
        """From the anatomies without the seed and with it."""
        grown = f"{recipe.path}."

        def former(name: str) -> str:
            return grown + name.removeprefix(f"{grown}host.") if name.startswith(f"{grown}host.") else name

        return cls(recipe, before, origin_of(before, after, {}, former), copies)

    def record(self) -> dict[str, Any]:
        return {"kind": self.kind, "anatomy": self.before.digest, "seed": encode(self.recipe)}

    @cached_property
    def numbers(self) -> IntArray:
        return _numbers_after(self)

    def undo(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self.recipe.prune(bare(model), optimizers[0], self.copies)


def _numbers_after(change: Change) -> IntArray:
    numbers = np.full(change.before.num_units, -1, np.int64)
    after = np.arange(change.origin.size)[::-1]  # of several parts that came apart, the first
    known = change.origin[after] >= 0
    numbers[change.origin[after[known]]] = after[known]
    return numbers


def shared_changes(changes: Sequence[Change], records: Sequence[Record]) -> int:
    """How many changes are those of the first records.

    A record that names no kind is of a cut, and older ones do not say what went with the layers around it.
    """
    pairs = ((change.record(), record) for change, record in zip(changes, records, strict=False))
    return sum(1 for _ in takewhile(lambda pair: pair[0] == _filled(*pair), pairs))


def _filled(known: Record, stored: Record) -> Record:
    """A stored record with what its version did not note taken from the one that is known."""
    inside = {"inside": known["inside"]} if "inside" in known and "removed" in stored else {}
    return {"kind": UnitsCut.kind, **inside, **stored}


def check_records(records: Sequence[Record], blueprints: Mapping[str, Callable[..., nn.Module]]) -> None:
    """Refuses changes that nobody here can make again.

    Raises:
        CheckpointError: one is of a kind that this version does not know.
        ConfigError: something has grown by a blueprint that was not given.
    """
    for record in records:
        kind = record.get("kind", UnitsCut.kind)
        if kind == SeedJoined.kind:
            blueprint(record["seed"]["blueprint"], blueprints)
        elif kind != UnitsCut.kind:
            raise CheckpointError(
                f"The checkpoint holds a change of the kind {kind!r}, which this version of Esper does not "
                "know. Nothing was changed. Resume with the version that wrote it."
            )


def redo_all(network: LiveNetwork, records: Sequence[Record]) -> bool:
    """Makes changes again, one after the other; False: they were made in another network.

    Of seeds that became parts at the same moment runs of before noted, in all but the first record, the
    network that all of them led to.
    """
    awaited = ""
    for record in records:
        here, expected = network.anatomy.digest, record["anatomy"]
        awaited = "" if awaited == here else awaited
        kinds = [change.kind for change in network.changes[-1:]] + [record.get("kind")]
        is_seed_after_seed = kinds == [SeedJoined.kind] * 2
        if awaited not in ("", expected) or (expected != here and not is_seed_after_seed):
            return False
        awaited = "" if expected == here else expected
        _redo(network, record)
    return awaited in ("", network.anatomy.digest)


def _redo(network: LiveNetwork, record: Record) -> None:
    """Makes a change again in a network that is what it was before it."""
    if record.get("kind") == SeedJoined.kind:
        recipe = decode(Recipe, record["seed"])
        recipe.graft(network.model, network.blueprints, network.optimizer, network.copies)
        join(network, recipe)
    else:
        keep = np.ones(network.anatomy.num_units, dtype=np.bool_)
        keep[record["removed"]] = False
        network.masks.apply(keep)
        network.cut_masked()


def join(network: LiveNetwork, recipe: Recipe) -> Change:
    """Takes a seed that stands in a network by now for a part of it; no unit may be masked.

    Raises:
        StructureError: the network with it cannot be traced; it was taken out again.
    """
    if network.original is None:
        network.original = copied(network.model)
        recipe.prune(network.original)
    copies = network.copies
    try:
        return network.changed(partial(SeedJoined.of, recipe, copies))
    except StructureError:
        recipe.prune(network.model, network.optimizer, copies)
        raise
