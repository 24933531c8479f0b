"""Copies of a network elsewhere in the process, and which of them follow it while it trains."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from esper.anatomy.graph.alive import Alive
from esper.anatomy.graph.bits import sums_of_bits
from esper.anatomy.graph.followers import is_copy
from esper.anatomy.graph.wrappers import bare
from esper.heap import owners_of


@dataclass(frozen=True)
class _Seen:
    """A module as it was first seen; it may go meanwhile."""

    module: weakref.ref[nn.Module]
    is_average: bool
    bits: tuple[int, ...]


class CopiesBeside:
    """Modules of the process that are built like a network, such as an average of it or a target network.

    A loop that averages the network into one of them, or loads its weights into it, fails where the network
    is cut and the other one is not.

    Args:
        model: the network.
        known: modules that do not count.
    """

    def __init__(self, model: nn.Module, known: Sequence[nn.Module] = ()) -> None:
        self._model, self._known = model, known
        self._seen: list[_Seen] = []

    def look(self, alive: Alive) -> list[nn.Module]:
        """Notes who is there now; returns the outermost modules that hold a copy of the network."""
        own, alike = _parameters(self._model), self._alike(alive)
        if any(is_copy(_parameters(one), own) for one in alike):
            del alike  # nobody holds one that was not cleared away yet, as where a cell is run once more
            alike = self._alike(alive.without_garbage())
        old = {id(one.module()) for one in self._seen}
        new = [one for one in alike if id(one) not in old]
        self._seen += [_Seen(weakref.ref(one), id(one) in alive.averages, _bits(one)) for one in new]
        return self._outermost([one for one in alike if is_copy(_parameters(one), own)])

    def follower(self, alive: Alive) -> str:
        """The class of the holder of one that changes though no optimizer trains it; '' if there is none.

        An `AveragedModel` counts also where it stands still: averaging often begins late.
        """
        if not self._seen or not self._follower(alive):
            return ""
        # One that nobody holds any more follows nothing.
        return self._follower(alive.without_garbage())

    def _follower(self, alive: Alive) -> str:
        groups = [group for one in alive.optimizers for group in vars(one).get("param_groups", ())]
        trained = {id(parameter) for group in groups for parameter in group["params"]}
        own = _parameters(self._model)
        for seen in self._seen:
            one = seen.module()
            if one is None or not _is_alike(one, own) or not trained.isdisjoint(map(id, one.parameters())):
                continue
            if seen.is_average or _bits(one) != seen.bits:
                return type(self._outermost([one])[0]).__name__
        return ""

    def _alike(self, alive: Alive) -> list[nn.Module]:
        """The modules that have the network's parameters in memory of their own."""
        own, ours = _parameters(self._model), self._ours()
        return [one for one in alive.modules if id(one) not in ours and _is_alike(one, own)]

    def _outermost(self, modules: Sequence[nn.Module]) -> list[nn.Module]:
        """What holds each of the modules, or the module itself where none does."""
        holders = _holders(modules, self._ours())
        found = list(modules)
        while inner := [place for place, one in enumerate(found) if id(one) in holders]:
            for place in inner:
                found[place] = holders[id(found[place])]
        return found

    def _ours(self) -> set[int]:
        return {id(part) for one in (self._model, *self._known) for part in one.modules()}


def _holders(modules: Sequence[nn.Module], ours: Collection[int]) -> dict[int, nn.Module]:
    """The modules that hold these, and those that hold them in turn, by the identity of what each holds.

    Args:
        modules: whose holders.
        ours: identities of modules that do not count.
    """
    holders: dict[int, nn.Module] = {}
    met = {*ours, *map(id, modules)}
    while modules:
        modules = [one for one in owners_of(modules, "_modules", nn.Module) if id(one) not in met]
        met |= set(map(id, modules))
        holders |= {id(child): one for one in modules for child in nn.Module.children(one)}
    return holders


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(bare(model).named_parameters())


def _is_alike(one: nn.Module, own: Mapping[str, nn.Parameter]) -> bool:
    """Whether it has these parameters, in memory of its own; one that fails when it is asked has not."""
    try:
        held = dict(one.named_parameters())
        return (
            bool(held)
            and held.keys() == own.keys()
            and all(_is_other(p, own[name]) for name, p in held.items())
        )
    except Exception:  # noqa: BLE001  it is somebody else's: not initialized yet, sparse, or of a kind of its own
        return False


def _is_other(one: nn.Parameter, own: nn.Parameter) -> bool:
    return one is not own and (one.shape, one.layout) == (own.shape, own.layout)


def _bits(one: nn.Module) -> tuple[int, ...]:
    """Of every parameter a number that is another one when the parameter changes."""
    return tuple(sums_of_bits(p for p in one.parameters() if p.device.type != "meta"))
