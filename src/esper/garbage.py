"""Stretches without garbage collections: where much is made, and none of it is garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType


@contextmanager
def uncollected() -> Iterator[None]:
    """Runs a block without collections that nobody asked for.

    Imports, and torch where it describes a program, make a hundred thousand small objects that stay. Each
    collection which they set off looks through everything that the process holds, and finds nothing.
    Whoever had turned collections off finds them off.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def imported(name: str) -> ModuleType:
    """A module, imported without collections; what that made counts as old from the beginning.

    Otherwise the first collection after it would look through all of it, in the middle of training.
    """
    before = len(sys.modules)
    with uncollected():
        module = import_module(name)
    # To count what is frozen is a walk through it. What somebody has frozen stays so.
    if len(sys.modules) != before and gc.get_freeze_count() == 0:
        gc.freeze()
        gc.unfreeze()
    return module
