"""Makes seeds: whole, as they are at birth, or as outlines without memory, which are filled with weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from esper.checkpoint import drawn_apart
from esper.errors import ConfigError
from esper.tezzeret.blueprints import Blueprint


class Wanted(Protocol):
    """What is to be made: of which blueprint, with which options, for which activations."""

    @property
    def blueprint(self) -> str: ...
    @property
    def options(self) -> dict[str, Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def number(self) -> int: ...


def made(wanted: Wanted, maker: Blueprint, device: torch.device) -> nn.Module:
    """The seed as it is at birth; random numbers outside of it stay what they are.

    Raises:
        ConfigError: the blueprint fails, or makes no module.
    """
    dtype = getattr(torch, wanted.dtype)
    try:
        with drawn_apart(wanted.number):
            seed: object = maker(torch.zeros(wanted.shape, device=device, dtype=dtype), **wanted.options)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"The blueprint {wanted.blueprint!r} made nothing for activations {list(wanted.shape)} with "
            f"the options {wanted.options}: {type(error).__name__}: {error}. Nothing was changed."
        ) from error
    if not isinstance(seed, nn.Module):
        raise ConfigError(
            f"The blueprint {wanted.blueprint!r} made a {type(seed).__name__} for activations "
            f"{list(wanted.shape)}, and a seed is a torch.nn.Module. Nothing was changed."
        )
    return seed.to(device, dtype)


def outline(wanted: Wanted, maker: Blueprint) -> nn.Module | None:
    """The seed without memory: its tensors have shapes only. None where it cannot be made so.

    That is where a blueprint reads values while it makes something, or puts in tensors that were there.
    """
    try:
        with drawn_apart(wanted.number), torch.device("meta"):
            seed: object = maker(
                torch.zeros(wanted.shape, dtype=getattr(torch, wanted.dtype)), **wanted.options
            )
    except Exception:  # noqa: BLE001 (a user's code, which does not have to know of this: None is the answer)
        return None
    if not isinstance(seed, nn.Module) or not all(tensor.is_meta for tensor in _tensors(seed)):
        return None
    return seed.to(getattr(torch, wanted.dtype))


def filled(seed: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module | None:
    """An outline with its tensors, which keep their ties; None if it holds others than these.

    Args:
        seed: from `outline`; changed in place.
        tensors: by name, parameters and buffers.
    """
    mine = dict(_named(seed))
    if mine.keys() != tensors.keys():
        return None
    if any((mine[name].shape, mine[name].dtype) != (t.shape, t.dtype) for name, t in tensors.items()):
        return None
    fresh: dict[Tensor, Tensor] = {}
    for name, old in mine.items():
        if old not in fresh:
            is_parameter = isinstance(old, nn.Parameter)
            fresh[old] = nn.Parameter(tensors[name], old.requires_grad) if is_parameter else tensors[name]
        path, _, own = name.rpartition(".")
        setattr(seed.get_submodule(path), own, fresh[old])
    return None if any(tensor.is_meta for tensor in _tensors(seed)) else seed


def held(seed: nn.Module) -> dict[str, Tensor]:
    """All that `filled` needs of a seed, buffers that no state_dict has included."""
    return {name: tensor.detach() for name, tensor in _named(seed)}


def _named(seed: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from seed.named_parameters(remove_duplicate=False)
    yield from seed.named_buffers(remove_duplicate=False)


def _tensors(seed: nn.Module) -> Iterator[Tensor]:
    """Every tensor that a module or one of its modules holds, in whatever attribute."""
    for module in seed.modules():
        waiting: list[Any] = list(vars(module).values())
        while waiting:
            thing = waiting.pop()
            if isinstance(thing, Tensor):
                yield thing
            elif isinstance(thing, dict):
                waiting += [value for value in thing.values() if not isinstance(value, nn.Module)]
            elif isinstance(thing, (list, tuple, set)):
                waiting += [value for value in thing if not isinstance(value, nn.Module)]
