"""The exporter of torch, which is made for one thread and talks much."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from esper.anatomy.graph.stand_ins import standing_in
from esper.garbage import uncollected

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def alone() -> Iterator[None]:
    """No other thread looks at a network meanwhile, by Esper or by `torch.compile`.

    Torch's exporter swaps attributes of torch itself while it traces, and the compiler's stance and the
    random state belong to the process. Two threads that do this at once, such as an analysis and a second run
    of the program, end in "Trying to pop empty mode stack" or worse.
    """
    with _ONE_AT_A_TIME, _compiler():
        yield


def _compiler() -> contextlib.AbstractContextManager[object]:
    """The lock that `torch.compile` holds while it works in another thread, of the user's."""
    compiler = sys.modules.get("torch._dynamo.convert_frame")  # before it is imported, nobody holds it
    lock: contextlib.AbstractContextManager[object] = getattr(
        compiler, "compile_lock", contextlib.nullcontext()
    )
    return lock


@contextmanager
def exporting() -> Iterator[None]:
    """Alone and uncollected, without the exporter's deprecations, log lines and dumps of half a graph."""
    logger = logging.getLogger("torch")
    quiet = contextlib.redirect_stderr(io.StringIO())
    with alone(), uncollected(), standing_in(), warnings.catch_warnings(), quiet:
        level = logger.level
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)
