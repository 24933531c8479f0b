"""Runs a network on other tensors than its own, and leaves its own where they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode


def call_with(
    model: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Calls the network with `tensors` in the place of those of the same (first) names.

    A tied parameter is replaced everywhere. A module that is registered under two names is entered once:
    `torch.func.functional_call` by itself would leave the substitute in it. So is one that code takes from a
    list or an object of its own.
    """
    first = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    places: dict[str, Tensor] = {}
    for path, module in model.named_modules():  # every module once
        own = (*module.named_parameters("", recurse=False, remove_duplicate=False),
               *module.named_buffers("", recurse=False, remove_duplicate=False))  # fmt: skip
        for attribute, tensor in own:
            substitute = tensors.get(first[id(tensor)])
            if substitute is not None:
                places[f"{path}.{attribute}" if path else attribute] = substitute
    with _Instead({id(own): tensors[name] for name, own in model.named_parameters() if name in tensors}):
        return functional_call(model, places, args, dict(kwargs), tie_weights=False)


class _Instead(TorchFunctionMode):
    """Gives functions of torch other tensors than those of these numbers (`id`)."""

    def __init__(self, others: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._others = others

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = {name: self._other(value) for name, value in kwargs.items()} if kwargs else {}
        return func(*map(self._other, args), **named)

    def _other(self, value: Any) -> Any:
        if type(value) in (list, tuple):  # as `torch.cat` is given
            return type(value)(map(self._other, value))
        return self._others.get(id(value), value)
