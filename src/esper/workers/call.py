"""One task, run in this process: whatever happens becomes an ending, a value and a message."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from esper.errors import ConfigError, ContractError
from esper.leyline import decode, encode
from esper.workers.task import Ending

Ended = tuple[Ending, Any, str]
"""Ending, result, message."""


def pack(function: Callable[..., Any] | str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a task in plain form, by the annotations of its function.

    Raises:
        ConfigError: one is not of its type, or has no plain form.
    """
    types = _types(function)
    try:
        return {name: encode(value, types.get(name, Any)) for name, value in arguments.items()}
    except ContractError as error:
        raise ConfigError(
            f"An argument cannot go to a worker: {error} Annotate the function with what it takes (plain "
            "values, arrays, dataclasses of these); write tensors to a file and send a reference to it."
        ) from error


def call(name: str, arguments: Mapping[str, Any]) -> Ended:
    """Calls "module:function" with `arguments` in plain form; the result is in plain form too.

    A worker's user must learn of any error without losing the worker, and of any error in the same form
    from every pool, so this boundary turns all of them into values; only an interrupt from the keyboard
    goes through.
    """
    try:
        function = _located(name)
        types = _types(function)
        given = {name: decode(types.get(name, Any), plain) for name, plain in arguments.items()}
        return Ending.DONE, encode(function(**given), types.get("return", Any)), ""
    except MemoryError as error:
        return Ending.MEMORY, None, describe(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (the boundary that the docstring explains)
        return (Ending.MEMORY if is_out_of_memory(error) else Ending.FAILED), None, describe(error)


def unpack(function: Callable[..., Any] | str, ending: Ending, value: Any, message: str) -> Ended:
    """The same with the result itself for its plain form; a result that cannot be made again is a failure."""
    if ending is not Ending.DONE:
        return ending, None, message
    try:
        return ending, decode(_types(function).get("return", Any), value), message
    except Exception as error:  # noqa: BLE001  (the other half of the boundary: classes of tasks are built here)
        return Ending.FAILED, None, f"Its result cannot be read: {describe(error)}"


def _located(name: str) -> Any:
    """What "module:qualified.name" names."""
    module, _, path = name.partition(":")
    return reduce(getattr, path.split("."), import_module(module))


def _types(function: Callable[..., Any] | str) -> dict[str, Any]:
    """What a function is annotated with; nothing where only its name is known."""
    return {} if isinstance(function, str) else get_type_hints(function, include_extras=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Libraries have no common error for this; it is known by what torch and the system say."""
    text = str(error).lower()
    return any(
        words in text for words in ("can't allocate memory", "cannot allocate memory", "out of memory")
    )


def describe(error: BaseException) -> str:
    """The error and where it was raised, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})" if frames else ""
    first, _, _ = str(error).partition("\n\n")  # torch goes on with a page about its graph
    return f"{type(error).__name__}: {first}{where}"
