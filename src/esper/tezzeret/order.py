"""What is asked for: one kernel, as a value that a worker understands, and that names what comes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from typing import Any

from torch import nn

from esper.errors import ConfigError, ContractError
from esper.leyline import content_id
from esper.leyline.wire import VERSION, messages
from esper.tezzeret.blueprints import Blueprint, blueprint

_NAMED = "name:"
_PLACED = "place:"


@dataclass(frozen=True)
class KernelOrder:
    """One kernel: which blueprint, with what options, for which activations of which slot.

    Attributes:
        slot: path of the module that it is for.
        generation: seeds that there were there, this one included.
        blueprint: its name, for people.
        maker: what a worker calls: the name of a blueprint that everybody has, or where a function stands.
        options: of the blueprint; what JSON can hold.
        shape: of the activations, and their `dtype` and `device`.
        number: what its random numbers begin with.
    """

    slot: str
    generation: int
    blueprint: str
    maker: str
    options: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    device: str = "cpu"
    number: int = 0

    @property
    def name(self) -> str:
        """The folder of its artifact: the same for the same order, in every process."""
        place, what = (self.slot, self.generation, self.number), (self.maker, self.options, list(self.shape))
        return f"kernel-{content_id([*place, *what, self.dtype, self.device])}"

    def message(self) -> messages.KernelRequest:
        """The same as a message."""
        return messages.KernelRequest(
            version=VERSION,
            idempotency_key=self.name,
            blueprint=self.blueprint,
            shape=self.shape,
            dtype=self.dtype,
            device=self.device,
            slot=self.slot,
            generation=self.generation,
            options=json.dumps(self.options, sort_keys=True),
            number=self.number,
            maker=self.maker,
        )


def maker_of(name: str, given: Mapping[str, Blueprint], options: Mapping[str, Any]) -> tuple[str, str]:
    """What a worker calls for a blueprint, and why there is nothing that it could call ('' if there is).

    Args:
        name: of the blueprint.
        given: the user's own.
        options: they have to go to the worker too.

    Raises:
        ConfigError: nobody knows the blueprint.
    """
    try:
        content_id(options)
    except ContractError:
        return "", "its options are more than JSON can hold"
    if name not in given:
        blueprint(name, {})
        return f"{_NAMED}{name}", ""
    function = given[name]
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if module == "__main__":
        return "", "it belongs to the main script, which no worker runs"
    place = f"{module}:{path}"
    if module is None or path is None or _standing_at(place) is not function:
        return "", "a worker finds it by its name only if it stands at the top of a module"
    return f"{_PLACED}{place}", ""


def found(maker: str) -> Callable[..., nn.Module]:
    """The function that `maker_of` has named.

    Raises:
        ConfigError: it is not there.
    """
    if maker.startswith(_NAMED):
        return blueprint(maker.removeprefix(_NAMED), {})
    function = _standing_at(maker.removeprefix(_PLACED))
    if function is None:
        raise ConfigError(f"There is no {maker.removeprefix(_PLACED)} here that could make a seed.")
    return function  # type: ignore[no-any-return]  # whatever a user put there


def _standing_at(place: str) -> Any:
    """What "module:qualified.name" names; None if nothing does."""
    module, _, path = place.partition(":")
    try:
        return reduce(getattr, path.split("."), import_module(module))
    except (ImportError, AttributeError):
        return None
