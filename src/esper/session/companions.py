"""What a script gives as companions of its network, one by one, as modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, TypeAlias

from torch import Tensor, nn

from esper.anatomy.graph import named_tensors
from esper.errors import ConfigError
from esper.kasmina import PlainCopy, memory_of

GivenCompanion: TypeAlias = nn.Module | Mapping[str, Tensor] | Sequence[Tensor]
"""A module that holds a copy of the network, or a copy of plain tensors."""
GivenCompanions: TypeAlias = GivenCompanion | Sequence[GivenCompanion]


def companions_in(given: Any, model: nn.Module) -> tuple[nn.Module, ...]:
    """The companions one by one; what is plain tensors becomes a module.

    Args:
        given: one or several. A list whose elements are tensors is one.
        model: the network.

    Raises:
        ConfigError: one of them is no copy, so nobody can say which of its tensors follow the network.
    """
    is_one = not isinstance(given, (list, tuple)) or _holds_tensors(given)
    listed = (given,) if is_one else given
    found = tuple(_module_of(one, model, number) for number, one in enumerate(listed))
    for (first, one), (second, other) in combinations(enumerate(found), 2):
        is_any_plain = isinstance(one, PlainCopy) or isinstance(other, PlainCopy)
        if is_any_plain and not _memory(one).isdisjoint(_memory(other)):
            raise ConfigError(
                f"Companions {first} and {second} share tensors, which would be cut twice. Nothing was "
                "changed. Give each tensor once."
            )
    return found


def check_layers(companions: Sequence[nn.Module], *, layers: bool) -> None:
    """Refuses to remove whole layers where a loop would still ask for their tensors.

    Raises:
        ConfigError: layers may go, and a companion is plain tensors.
    """
    if layers and any(isinstance(one, PlainCopy) for one in companions):
        raise ConfigError(
            "Whole layers may go, and a dict or list of tensors would keep those of layers that are gone. "
            'Nothing was changed. Leave "layer" out of the levels, or keep the average in a module, such as '
            "torch.optim.swa_utils.AveragedModel."
        )


def _module_of(given: Any, model: nn.Module, number: int) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, Mapping) or _are_tensors(given):
        return PlainCopy(model, given, number)
    held = vars(given).items() if hasattr(given, "__dict__") else ()
    inside = [name for name, value in held if isinstance(value, nn.Module) or _holds_tensors(value)]
    way_out = (
        f"Give what it holds, `.{inside[0]}`." if inside else "Give the average that it keeps, if it does."
    )
    raise ConfigError(
        "A companion is a module that holds a copy of the network, or a dict or list of tensors that is one, "
        f"and {type(given).__name__} is none. {way_out} Nothing was changed."
    )


def _are_tensors(thing: Any) -> bool:
    return isinstance(thing, (list, tuple)) and all(isinstance(value, Tensor) for value in thing)


def _holds_tensors(thing: Any) -> bool:
    values = list(thing.values()) if isinstance(thing, Mapping) else thing
    return _are_tensors(values) and len(values) > 0


def _memory(companion: nn.Module) -> set[Any]:
    return memory_of(named_tensors(companion).values())
