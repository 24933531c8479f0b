"""What follows a network in training: frozen copies of its parts, inside it and elsewhere in the process."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from esper.anatomy.graph.wrappers import bare


def followers_in(model: nn.Module) -> dict[str, str]:
    """Parameters of frozen copies of what is trained, by name: the parameter that each is a copy of.

    A loop that averages a part into its copy goes through both side by side, so they are to be cut alike.
    """
    parts = [(f"{path}." if path else "", part) for path, part in model.named_modules()]
    held = [(path, type(part), dict(part.named_parameters())) for path, part in parts]
    trained = [entry for entry in held if any(p.requires_grad for p in entry[2].values())]
    found: dict[str, str] = {}
    for path, kind, own in held:  # the largest parts come first
        if any(p.requires_grad for p in own.values()) or f"{path}{next(iter(own), '')}" in found:
            continue
        for other, other_kind, theirs in trained:
            if kind is other_kind and _is_copy(own, theirs):
                found.update({path + name: other + name for name in own})
                break
    return found


def copies_beside(model: nn.Module, known: Sequence[nn.Module] = ()) -> list[nn.Module]:
    """The outermost modules of the process that hold a copy of the network, such as an average of it.

    Args:
        model: the network.
        known: modules that do not count.
    """
    if not _copies(model, known):
        return []
    gc.collect()  # nobody holds one that was only not cleared away yet, as where a cell is run once more
    return _copies(model, known)


def _copies(model: nn.Module, known: Sequence[nn.Module]) -> list[nn.Module]:
    network = bare(model)
    own, ours = dict(network.named_parameters()), {id(p) for one in (model, *known) for p in one.modules()}
    # By the type: other people's objects may do anything when they are asked for their class. One that could
    # not be built has nothing in it, and one may be equal to others: they are told apart by who they are.
    alive = [one for one in gc.get_objects() if issubclass(type(one), nn.Module) and "_modules" in vars(one)]
    holders = {id(child): one for one in alive if id(one) not in ours for child in nn.Module.children(one)}
    found = []
    for one in alive:
        if type(one) is type(network) and id(one) not in ours and _holds_copy(one, own):
            outermost = one
            while id(outermost) in holders:
                outermost = holders[id(outermost)]
            if not type(outermost).__module__.startswith("esper."):  # left from a look, and garbage
                found.append(outermost)
    return found


def _holds_copy(one: nn.Module, own: Mapping[str, nn.Parameter]) -> bool:
    """Whether it holds the same numbers elsewhere; a module that fails when it is asked holds none."""
    try:
        held = dict(one.named_parameters())
        return bool(held) and not any(p is own.get(name) for name, p in held.items()) and _is_copy(held, own)
    except Exception:  # noqa: BLE001  it is somebody else's: not initialized yet, sparse, or of a kind of its own
        return False


def _is_copy(own: Mapping[str, nn.Parameter], theirs: Mapping[str, nn.Parameter]) -> bool:
    """Whether they hold the same numbers, and some that are not like this by chance: all ones, all zeros."""
    if own.keys() != theirs.keys() or any(p.shape != theirs[name].shape for name, p in own.items()):
        return False
    same = all(
        (p.device, p.dtype) == (theirs[name].device, theirs[name].dtype)
        and p.device.type != "meta"
        and torch.equal(p, theirs[name])
        for name, p in own.items()
    )
    return same and any(bool((p != p.flatten()[0]).any()) for p in own.values() if p.dim() > 1 and p.numel())
