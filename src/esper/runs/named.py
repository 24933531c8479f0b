"""Finds what `module:name` names: a function or class that the user wrote, or that is installed."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper.errors import ConfigError


def named(name: str, *folders: Path) -> Callable[..., Any]:
    """Imports the module and takes what it calls so.

    Args:
        name: `module:name`.
        folders: where the module may lie, the first one first; then where esper is called, as `python -m` has
            it, and then what is installed.

    Raises:
        ConfigError: there is no such module, or nothing that can be called in it.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(f"{name!r} is not of the form module:name, such as torch.optim:AdamW.")
    places = [str(folder.resolve()) for folder in (*folders, Path.cwd())]
    sys.path[:0] = [place for place in dict.fromkeys(places) if place not in sys.path]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"The module of {name!r} cannot be imported: {error}. {_way_out(error, module_name, places)}"
        ) from error
    found: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(found):
        raise ConfigError(
            f"{module_name} has nothing to call by the name {attribute!r}, which {name!r} asks for."
        )
    return found


def called(name: str, *folders: Path) -> Any:
    """What the function or class that `module:name` names returns without arguments.

    Raises:
        ConfigError: there is no such thing, or it needs arguments.
    """
    maker = named(name, *folders)
    try:
        signature = inspect.signature(maker)
    except ValueError:  # written in C: it says itself what it needs
        return maker()
    try:
        signature.bind()
    except TypeError as misfit:
        raise ConfigError(
            f"{name}{signature} is called without arguments: {misfit}. Give them defaults, or name a "
            "function that fills them in."
        ) from misfit
    return maker()


def _way_out(error: ModuleNotFoundError, module_name: str, places: list[str]) -> str:
    """Either the module itself is missing, or something that it imports."""
    if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
        where = " or ".join(dict.fromkeys(places))
        return f"Put it into {where}, or install it into this environment."
    return f"The module was found, but it imports {error.name!r}, which is not installed here."
