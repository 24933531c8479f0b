"""Lists and dicts elsewhere in the process that hold a tensor for each of a network's parameters.

And tensors that hold all of these in one row, as `torch.nn.utils.parameters_to_vector` makes them.
"""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.graph.alive import Alive
from esper.anatomy.graph.bits import sums_of_bits
from esper.anatomy.graph.followers import is_copy
from esper.anatomy.graph.used import Watch
from esper.anatomy.graph.wrappers import bare, bare_name, programs_made
from esper.heap import owners_of

_Likeness: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]
"""Whether tensors are like the parameters of the same names."""


@dataclass(slots=True)
class _Seen:
    """A list or dict that was there; held, so that no other one takes its place, and not by a name."""

    one: Any
    called: tuple[str, str]
    bits: list[int]
    watch: Watch

    @classmethod
    def now(cls, one: Any) -> _Seen:
        # A compiler that meets a class of tensors which it does not know may give up.
        watched = () if programs_made() else (value for value in _values(one) if isinstance(value, Tensor))
        return cls(one, _called(one), _bits(one), Watch(watched))


class PlainBeside:
    """Lists and dicts of the process that hold tensors for parameters, which a loop computes with.

    An average of gradients, a Fisher information, an average of the weights that began late, weights whose
    distance is a penalty: the loop fails where the network is cut and they are not. Weights that it only
    keeps, as the best ones, are none. The same holds for a tensor of as many numbers as all parameters.

    Args:
        model: the network.
        known: lists and dicts that do not count.
    """

    def __init__(self, model: nn.Module, known: Collection[Any] = ()) -> None:
        self._model, self._known = bare(model), known
        self._seen: list[_Seen] = []
        self._used: tuple[str, str] | None = None

    def look(self, alive: Alive, optimizers: Collection[Optimizer] = ()) -> None:
        """Notes who is there now, and watches what is done with it from now on.

        Args:
            alive: what is there.
            optimizers: those that train the network; what they remember does not count.
        """
        self.rest()
        self._used = None
        self._seen = [_Seen.now(one) for one in self._there(alive, optimizers)]

    def rest(self) -> None:
        """Watches no longer what is done with them."""
        for seen in self._seen:
            seen.watch.end()
            self._used = seen.called if seen.watch.is_used else self._used

    def follower(self, alive: Alive, optimizers: Collection[Optimizer] = ()) -> tuple[str, str] | None:
        """One that is used, has changed since, or cannot be weights: what it is, and what it is called.

        A list or row that was not there yet does not count: many a loop makes one of gradients in each step.

        Args:
            alive: what is there.
            optimizers: as for `look`.
        """
        self.rest()
        if self._used is not None:
            return self._used
        if not self._there(alive, optimizers):  # most often; to clear the heap takes longer than a look
            self._seen = []
            return None
        alive = alive.without_garbage()
        self._seen = [seen for seen in self._seen if sys.getrefcount(seen.one) > _OWN_HOLDS]
        bits = {id(seen.one): seen.bits for seen in self._seen}
        for one in self._there(alive, optimizers):
            then = bits.get(id(one))
            has_changed = then is not None and then != _bits(one)
            is_kept = then is not None or isinstance(one, dict)
            if has_changed or (is_kept and not _may_be_weights(one)):
                return _called(one)
        self._seen = []
        return None

    def _there(self, alive: Alive, optimizers: Collection[Optimizer]) -> list[Any]:
        known = [value for one in self._known for value in _values(one)]
        known += [p.grad for p in self._model.parameters()]
        states = [held for one in optimizers for held in one.state.values() if isinstance(held, dict)]
        known += [value for held in states for value in held.values()]
        return _like(self._model, alive, _has_shapes, known) + self._rows(alive, known)

    def _rows(self, alive: Alive, known: Iterable[Any]) -> list[Tensor]:
        """Tensors of as many numbers as all parameters, or as all that are trained, in one row."""
        own = list(self._model.parameters())
        sizes = sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)
        shapes, places = {(size,) for size in sizes if size}, _places((*own, *known))
        rows = [one for one in alive.tensors if type(one) is Tensor and _shape(one) in shapes]
        return [one for one in rows if _place(one) not in places]


_OWN_HOLDS = 2
"""References to what nobody else holds: the one that was noted, and that of the question itself."""


def plain_copies_beside(model: nn.Module, alive: Alive, known: Collection[Any] = ()) -> list[tuple[str, str]]:
    """Lists and dicts of the process that hold a copy of all parameters, or of all that are trained.

    Those whose tensors are parameters of a module do not count: the module does. Nor does what an optimizer
    trains, or what is known.

    Returns:
        For each what it is, and what it is called, so far as that is known.
    """
    held = [value for one in known for value in _values(one)]
    if not _like(bare(model), alive, is_copy, held):
        return []
    # Nobody holds one that was not cleared away yet, as where a cell is run once more.
    found = _like(bare(model), alive.without_garbage(), is_copy, held)
    return [_called(one) for one in found]


def _like(network: nn.Module, alive: Alive, is_like: _Likeness, known: Iterable[Any] = ()) -> list[Any]:
    """The lists and dicts whose tensors are like all parameters, or like all that are trained.

    Args:
        network: it has the parameters.
        alive: what is there.
        is_like: asked about tensors and parameters of the same names; at least one is a matrix.
        known: tensors that do not count.
    """
    own = dict(network.named_parameters())
    trained = {name: parameter for name, parameter in own.items() if parameter.requires_grad}
    # Hardly any tensor has the shape of a matrix and is not known, so that few are asked who holds them.
    shapes = {parameter.shape for parameter in own.values() if parameter.dim() > 1}
    places = _places((*own.values(), *known, *_in_modules(alive)))
    asked = tuple(one for one in alive.tensors if _shape(one) in shapes and _place(one) not in places)
    if not asked:
        return []
    holders = [one for one in gc.get_referrers(*asked) if type(one) in (list, dict, OrderedDict)]
    found = [one for one in holders if any(_is_one(one, some, is_like) for some in (own, trained))]
    if not found:
        return []
    optimizers = alive.optimizers if any(type(one) is list for one in found) else ()
    trained_by = {id(group["params"]) for one in optimizers for group in vars(one).get("param_groups", ())}
    found = [one for one in found if id(one) not in trained_by]
    theirs = _places_in_modules([value for one in found for value in _values(one)], alive.tensors)
    return [one for one in found if theirs.isdisjoint(map(_place, _values(one)))]


def _in_modules(alive: Alive) -> Iterator[Tensor]:
    """The parameters of all networks of the class, with their gradients: of some, hundreds are alive."""
    for one in alive.modules:
        with suppress(Exception):  # it is somebody else's, and may not be initialized yet
            for parameter in one.parameters():
                yield parameter
                if parameter.grad is not None:
                    yield parameter.grad


def _places_in_modules(tensors: Iterable[Any], alive: Iterable[Tensor]) -> set[int]:
    """Where those of the tensors lie that modules have as parameters, or the memory of one."""
    places = _places(tensors)
    parameters = [p for p in alive if type(p) is nn.Parameter and _place(p) in places]
    owners = owners_of(parameters, "_parameters", nn.Module)
    return _places(p for one in owners for p in vars(one)["_parameters"].values())


def _is_one(one: Any, own: Mapping[str, nn.Parameter], is_like: _Likeness) -> bool:
    """Whether it is a list of such tensors, or a dict of them by name."""
    try:
        first = next(iter(_values(one)))
        if any(first is p for p in own.values()):
            return False  # its own ones are in many a list: of its optimizer, to clip gradients
        if type(one) is list:
            return len(one) == len(own) and is_like(dict(zip(own, one, strict=True)), own)
        named = {bare_name(key, own): value for key, value in one.items()}
        return is_like({name: value for name, value in named.items() if name in own}, own)
    except Exception:  # noqa: BLE001  it is somebody else's, may hold anything, and change in another thread
        return False


def _has_shapes(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    """Whether they have the shapes of these, or of some, such as masks for the matrices alone."""
    is_any_matrix = any(p.dim() > 1 for p in tensors.values())
    return is_any_matrix and all(name in own and p.shape == own[name].shape for name, p in tensors.items())


def _may_be_weights(one: Any) -> bool:
    """Whether it may hold weights, of this network or of another one: masks and information have no signs."""
    if isinstance(one, Tensor):
        return True  # nothing tells where one parameter ends in it
    matrices = [value for value in _values(one) if isinstance(value, Tensor) and value.dim() > 1]
    return any(value.is_complex() or bool((value < 0).any()) for value in matrices)


def _bits(one: Any) -> list[int]:
    return sums_of_bits(value for value in _values(one) if isinstance(value, Tensor))


def _called(one: Any) -> tuple[str, str]:
    """What it is, and what somebody calls it."""
    what = "tensor" if isinstance(one, Tensor) else "list" if type(one) is list else "dict"
    return what, _name_of(one)


def _values(one: Any) -> Iterable[Any]:
    return (one,) if isinstance(one, Tensor) else one if type(one) is list else one.values()


def _shape(tensor: Tensor) -> torch.Size | None:
    try:
        return tensor.shape
    except Exception:  # noqa: BLE001  it is somebody else's: of a kind of its own
        return None


def _places(values: Iterable[Any]) -> set[int]:
    return {_place(one) for one in values if isinstance(one, Tensor)}


def _place(tensor: Any) -> int:
    """Where a tensor lies; what has no memory of its own (a shard, what is not initialized) lies nowhere."""
    try:
        return int(tensor.untyped_storage().data_ptr())
    except Exception:  # noqa: BLE001  torch has many ways to say so
        return -id(tensor)


def _name_of(one: Any) -> str:
    """What somebody calls it; how much it holds, if nobody with a name for it is found."""
    for holder in gc.get_referrers(one):
        names = holder if type(holder) is dict else getattr(holder, "__dict__", {})
        for name, value in list(names.items()):
            if value is one and type(name) is str:
                return name if type(holder) is dict else f"{type(holder).__name__}.{name}"
    return f"{len(one)} {'numbers' if isinstance(one, Tensor) else 'tensors'}"
