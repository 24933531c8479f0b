"""One task, run in this process: whatever happens becomes a status, a value and a message."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper.leyline import from_plain, locate, to_plain
from esper.workers.task import Status

Ended = tuple[Status, Any, str]
"""Status, result in plain form, message."""


def call(function: str, arguments: Any, progress: Callable[[float], None]) -> Ended:
    """Calls "module:function" with `arguments` in plain form.

    A worker's user must learn of any error without losing the worker, and of any error in the same form
    from every pool, so this boundary turns all of them into values; only an interrupt from the keyboard
    goes through.
    """
    try:
        target = locate(function)
        keywords = from_plain(arguments)
        if "progress" in inspect.signature(target).parameters:
            keywords["progress"] = progress
        return Status.DONE, to_plain(target(**keywords)), ""
    except MemoryError as error:
        return Status.MEMORY, None, describe(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (the boundary that the docstring explains)
        return (Status.MEMORY if is_out_of_memory(error) else Status.FAILED), None, describe(error)


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
