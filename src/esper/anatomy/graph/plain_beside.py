"""Lists and dicts elsewhere in the process that hold a tensor for each of a network's parameters."""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.graph.bits import sums_of_bits
from esper.anatomy.graph.followers import is_copy
from esper.anatomy.graph.wrappers import bare, bare_name

_Likeness: TypeAlias = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], bool]
"""Whether tensors are like the parameters of the same names."""


class OwnTensors(dict[str, Tensor]):
    """Tensors by names of parameters that Esper keeps itself: no search for those of a loop finds them."""


class PlainBeside:
    """Lists and dicts of the process that hold tensors for parameters, which a loop computes with.

    An average of gradients, a Fisher information, an average of the weights that began late: the loop fails
    where the network is cut and they are not. Weights that it only keeps, as the best ones, are none.

    Args:
        model: the network.
        known: lists and dicts that do not count.
    """

    def __init__(self, model: nn.Module, known: Collection[Any] = ()) -> None:
        self._model, self._known = bare(model), {id(one) for one in known}
        self._seen: list[tuple[Any, list[int]]] = []
        """Each with what tells whether it changes; held, so that no other one takes its place."""

    def look(self) -> None:
        """Notes who is there now."""
        self._seen = [(one, _bits(one)) for one in self._there()]

    def follower(self) -> tuple[str, str] | None:
        """One that has changed since, or cannot be weights: what it is, and what it is called.

        A list that was not there yet does not count: many a loop makes one of gradients in every step.
        """
        if not self._there():  # most often; to clear the heap takes longer than to look through it
            self._seen = []
            return None
        gc.collect()
        self._seen = [seen for seen in self._seen if sys.getrefcount(seen[0]) > _OWN_HOLDS]
        bits = {id(one): then for one, then in self._seen}
        for one in self._there():
            then = bits.get(id(one))
            has_changed = then is not None and then != _bits(one)
            is_kept = then is not None or type(one) is not list
            if has_changed or (is_kept and not _may_be_weights(one)):
                return _called(one)
        self._seen = []
        return None

    def _there(self) -> list[Any]:
        gradients = {_place(p.grad) for p in self._model.parameters() if p.grad is not None}
        return [
            one
            for one in _like(self._model, _has_shapes, least=1)
            if id(one) not in self._known
            and gradients.isdisjoint(map(_place, _values(one)))
            and not _is_of_esper(one)
        ]


_OWN_HOLDS = 2
"""References to what nobody else holds: the one that was noted, and that of the question itself."""


def plain_copies_beside(model: nn.Module) -> list[tuple[str, str]]:
    """Lists and dicts of the process that hold a copy of all parameters, or of all that are trained.

    Those whose tensors are parameters of a module do not count: the module does. Nor does what an optimizer
    trains.

    Returns:
        For each what it is, and what it is called, so far as that is known.
    """
    if not _like(bare(model), is_copy):
        return []
    gc.collect()  # nobody holds one that was not cleared away yet, as where a cell is run once more
    return [_called(one) for one in _like(bare(model), is_copy)]


def _like(network: nn.Module, is_like: _Likeness, least: int = 0) -> list[Any]:
    """The lists and dicts whose tensors are like all parameters, or like all that are trained.

    Dicts may hold fewer, but `least`, if that is enough to be like them.
    """
    own = dict(network.named_parameters())
    trained = {name: parameter for name, parameter in own.items() if parameter.requires_grad}
    # Of hundreds of thousands of objects few are as long as this and begin with a tensor.
    large = _of_tensors(of_list=max(len(trained), 1), of_dict=max(least or len(trained), 1))
    found = [one for one in large if any(_is_one(one, some, is_like) for some in (own, trained))]
    if not found:
        return []
    alive = gc.get_objects()
    modules = [one for one in alive if issubclass(type(one), nn.Module) and "_parameters" in vars(one)]
    theirs = {_place(held) for one in modules for held in vars(one)["_parameters"].values()}
    optimizers = [one for one in alive if issubclass(type(one), Optimizer)]
    trained_by = {id(group["params"]) for one in optimizers for group in vars(one).get("param_groups", ())}
    return [
        one for one in found if id(one) not in trained_by and theirs.isdisjoint(map(_place, _values(one)))
    ]


def _of_tensors(*, of_list: int, of_dict: int) -> list[Any]:
    """The lists and dicts of the process of so many entries or more whose first value is a tensor.

    All objects are asked, at every mask and cut, so the loop is written for its time.
    """
    lengths: dict[type, int] = {list: of_list, dict: of_dict, OrderedDict: of_dict}
    found = []
    for one in [one for one in gc.get_objects() if type(one) in lengths]:
        kind = type(one)
        if len(one) < lengths[kind]:
            continue
        try:
            first = type(one[0] if kind is list else next(iter(one.values())))
        except Exception:  # noqa: BLE001, S112  it changes in another thread
            continue
        if first is Tensor or first is nn.Parameter:
            found.append(one)
    return found


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
    matrices = [value for value in _values(one) if isinstance(value, Tensor) and value.dim() > 1]
    return any(value.is_complex() or bool((value < 0).any()) for value in matrices)


def _is_of_esper(one: Any) -> bool:
    """Whether an object of Esper has it as an attribute: what a mask has changed is kept by name."""
    holders = gc.get_referrers(one)
    holders += gc.get_referrers(*(holder for holder in holders if type(holder) is dict))
    return any(
        type(holder).__module__.startswith("esper.") and any(value is one for value in _attributes(holder))
        for holder in holders
    )


def _attributes(thing: Any) -> list[Any]:
    return list(getattr(thing, "__dict__", {}).values())


def _bits(one: Any) -> list[int]:
    return sums_of_bits(value for value in _values(one) if isinstance(value, Tensor))


def _called(one: Any) -> tuple[str, str]:
    """What it is, and what somebody calls it."""
    return "list" if type(one) is list else "dict", _name_of(one)


def _values(one: Any) -> Iterable[Any]:
    return one if type(one) is list else one.values()


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
    return f"{len(one)} tensors"
