"""Frozen copies of a network's parts inside it, which follow these in training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


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
            if kind is other_kind and is_copy(own, theirs):
                found.update({path + name: other + name for name in own})
                break
    return found


def is_copy(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
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
