"""How held-out batches differ from the sample in what no graph can be right for."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from esper.batches.splitting import split_sample


@dataclass(frozen=True)
class OtherKind:
    """A tensor that another batch holds in another dtype than the sample; `place` says which one."""

    place: str
    dtype: torch.dtype
    wanted: torch.dtype


def leaves_of(batch: Any, model: nn.Module) -> dict[Any, Any]:
    """Every leaf of positional inputs, keyword inputs and target, by its path."""
    whole = tuple(batch) if isinstance(batch, list) else batch
    return dict(pytree.tree_flatten_with_path(split_sample(whole, with_target=True, model=model))[0])


def other_kind(sample: Any, batches: Sequence[Any], model: nn.Module) -> OtherKind | None:
    """The first tensor that has another dtype than in `sample`; None where all are alike.

    Args:
        sample: one batch, `(input, target)`.
        batches: others; one that is not built alike does not count.
        model: whose inputs they are.
    """
    ours = _tensors(sample, model)
    for batch in batches:
        theirs = _tensors(batch, model)
        if theirs.keys() != ours.keys():
            continue
        for path, leaf in theirs.items():
            if leaf.dtype != ours[path].dtype:
                return OtherKind(_place(path, model), leaf.dtype, ours[path].dtype)
    return None


def is_single(sample: Any, batch: Any, model: nn.Module) -> bool:
    """Is it one sample, as a data set yields it, each tensor without the axis of samples?"""
    ours, theirs = _tensors(sample, model), leaves_of(batch, model)
    dims = {path: _dims(leaf) for path, leaf in theirs.items() if path in ours}
    return bool(ours) and dims == {path: leaf.dim() - 1 for path, leaf in ours.items()}


def _tensors(batch: Any, model: nn.Module) -> dict[Any, Tensor]:
    return {path: leaf for path, leaf in leaves_of(batch, model).items() if isinstance(leaf, Tensor)}


def _dims(leaf: Any) -> int | None:
    """A class may be a plain number; what is neither has no axes that could be counted."""
    if isinstance(leaf, Tensor):
        return leaf.dim()
    return 0 if isinstance(leaf, (int, float)) else None


def _place(path: Sequence[Any], model: nn.Module) -> str:
    part, rest = path[0].idx, path[1:]
    if part == 2:
        return f"the target{pytree.keystr(tuple(rest))}"
    if part == 1:
        return f"the input `{rest[0].key}`{pytree.keystr(tuple(rest[1:]))}"
    inside = pytree.keystr(tuple(rest[1:]))
    return f"the input `{_argument(rest[0].idx, model)}`{inside}"


def _argument(number: int, model: nn.Module) -> str:
    """The name of a positional argument of the forward pass; its number where that is not told."""
    try:
        arguments = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # written in C++
        return str(number)
    named = [one for one in arguments if one.kind is not inspect.Parameter.VAR_POSITIONAL]
    return named[number].name if number < len(named) == len(arguments) else str(number)
