"""One torch thread in this process and in every process that a test starts, and hypothesis without clocks."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from esper.workers import LocalPool

settings.register_profile("esper", deadline=None, derandomize=True)
settings.load_profile("esper")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    # A shell that starts tests in the background has interrupts ignored, and so would all that they start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    import torch  # after the variable, which it reads once

    torch.set_num_threads(1)
    # Else pytest listens to what torch notes of every export, which takes some per cent of a whole run.
    logging.getLogger("torch.__trace").propagate = True


def pytest_unconfigure() -> None:
    """Runs that tests have left as a kill would leave them are nothing to tell of."""
    from esper.session import tell_unfinished

    atexit.unregister(tell_unfinished)


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> None:
    """What is imported and cached by now is nobody's garbage, and no copy of a network: no search sees it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def worker() -> Iterator[LocalPool]:
    """One worker process that has imported what analyses need, for all tests that only need some worker.

    Pools that tests open while this one is there are forked from the same imports, and start at once.
    """
    from esper.workers import LocalPool

    # All that `esper.elesh.PRELOAD` names, which takes long to import and is not needed here.
    pool = LocalPool(1, ("torch", "torch._dynamo", "safetensors.torch", "esper.elesh.analysis"))
    yield pool
    pool.close()
