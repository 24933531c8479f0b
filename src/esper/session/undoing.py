"""What was begun and does not come to its end is taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def undone_on_error(undo: Callable[[], object]) -> Iterator[None]:
    """Calls `undo` if the block ends with an error, an interrupt included, which goes on afterwards."""
    try:
        yield
    except BaseException:
        undo()
        raise
