"""Lists and dicts elsewhere in the process that hold a copy of a network's parameters."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from esper.anatomy.graph.followers import is_copy
from esper.anatomy.graph.wrappers import bare, bare_name


def plain_copies_beside(model: nn.Module) -> list[tuple[str, str]]:
    """Lists and dicts of the process that hold a copy of all parameters, or of all that are trained.

    Those whose tensors are parameters of a module do not count: the module does. Nor does what an optimizer
    trains.

    Returns:
        For each what it is, and what it is called, so far as that is known.
    """
    if not _plain_copies(bare(model)):
        return []
    gc.collect()  # nobody holds one that was not cleared away yet, as where a cell is run once more
    found = _plain_copies(bare(model))
    return [("list" if type(one) is list else "dict", _name_of(one)) for one in found]


def _plain_copies(network: nn.Module) -> list[Any]:
    own = dict(network.named_parameters())
    trained = {name: parameter for name, parameter in own.items() if parameter.requires_grad}
    alive = gc.get_objects()
    # Of hundreds of thousands of objects few are as long as this and begin with a tensor.
    large = [one for one in alive if type(one) in (list, dict, OrderedDict) and len(one) >= len(trained) > 0]
    found = [one for one in large if _is_plain_copy(one, own) or _is_plain_copy(one, trained)]
    if not found:
        return []
    modules = [one for one in alive if issubclass(type(one), nn.Module) and "_parameters" in vars(one)]
    theirs = {_place(held) for one in modules for held in vars(one)["_parameters"].values()}
    optimizers = [one for one in alive if issubclass(type(one), Optimizer)]
    trained_by = {id(group["params"]) for one in optimizers for group in vars(one).get("param_groups", ())}
    return [
        one for one in found if id(one) not in trained_by and theirs.isdisjoint(map(_place, _values(one)))
    ]


def _is_plain_copy(one: Any, own: Mapping[str, nn.Parameter]) -> bool:
    """Whether it is a list of the same numbers, or a dict of them by name."""
    try:
        first = next(iter(_values(one)))
        if type(first) not in (Tensor, nn.Parameter) or any(first is p for p in own.values()):
            return False  # its own ones are in many a list: of its optimizer, to clip gradients
        if type(one) is list:
            return len(one) == len(own) and is_copy(dict(zip(own, one, strict=True)), own)
        named = {bare_name(key, own): value for key, value in one.items()}
        return is_copy({name: value for name, value in named.items() if name in own}, own)
    except Exception:  # noqa: BLE001  it is somebody else's, may hold anything, and change in another thread
        return False


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
