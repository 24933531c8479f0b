"""Tensors of a parameter's shape that hooks on its gradient use, as where some weights are frozen."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from esper.anatomy.graph.wrappers import bare


def held_by_a_hook(model: nn.Module) -> tuple[str, str] | None:
    """A parameter whose gradient goes through a hook with a tensor of its shape, and what that is called.

    After a cut of the parameter such a hook fails in the backward pass.
    """
    parameters = bare(model).named_parameters()
    for name, parameter in ((name, p) for name, p in parameters if p.dim()):
        for hook in _hooks(parameter):
            for called, value in _used(hook):
                if isinstance(value, Tensor) and value is not parameter and value.shape == parameter.shape:
                    return name, called
    return None


def _hooks(parameter: nn.Parameter) -> Iterator[Any]:
    for attribute in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        yield from (getattr(parameter, attribute, None) or {}).values()


def _used(hook: Any) -> Iterator[tuple[str, Any]]:
    """What a function uses that it is not called with, by name."""
    while isinstance(hook, partial):
        yield from ((f"argument {number}", value) for number, value in enumerate(hook.args))
        yield from hook.keywords.items()
        hook = hook.func
    held: Mapping[str, Any] = getattr(getattr(hook, "__self__", hook), "__dict__", {})
    yield from list(held.items())
    function = getattr(hook, "__func__", hook)
    if inspect.isfunction(function):
        for name, parameter in inspect.signature(function).parameters.items():
            yield name, parameter.default
        used = inspect.getclosurevars(function)
        yield from (*used.nonlocals.items(), *used.globals.items())
