"""One task, run in this process: whatever happens becomes an ending, a value and a message."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from esper.leyline import from_plain, locate, to_plain
from esper.workers.task import Ending

Ended = tuple[Ending, Any, str]
"""Ending, result, message."""


def call(function: str, arguments: Any) -> Ended:
    """Calls "module:function" with `arguments` in plain form; the result is in plain form too.

    A worker's user must learn of any error without losing the worker, and of any error in the same form
    from every pool, so this boundary turns all of them into values; only an interrupt from the keyboard
    goes through.
    """
    try:
        return Ending.DONE, to_plain(locate(function)(**from_plain(arguments))), ""
    except MemoryError as error:
        return Ending.MEMORY, None, describe(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (the boundary that the docstring explains)
        return (Ending.MEMORY if is_out_of_memory(error) else Ending.FAILED), None, describe(error)


def unpack(ending: Ending, value: Any, message: str) -> Ended:
    """The same with the result itself for its plain form; a result that cannot be made again is a failure."""
    try:
        return ending, from_plain(value), message
    except Exception as error:  # noqa: BLE001  (the other half of the boundary: classes of tasks are built here)
        return Ending.FAILED, None, f"Its result cannot be read: {describe(error)}"


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
    return f"{type(error).__name__}: {error}{where}"
