"""Many tasks under one deadline."""

from __future__ import annotations

import time
from collections.abc import Sequence

from esper.leyline import Clock
from esper.workers.task import TaskHandle, TaskOutcome


def gather(
    handles: Sequence[TaskHandle], timeout_seconds: float, clock: Clock = time.monotonic
) -> list[TaskOutcome]:
    """The outcomes of all tasks, in order, after at most `timeout_seconds`; the rest is canceled.

    The deadline of a task bounds one attempt of it; this bounds waiting, attempts and queues together.
    """
    end = clock() + timeout_seconds
    for handle in handles:
        if not handle.wait(max(0.0, end - clock())):
            break
    for handle in handles:
        handle.cancel()  # which changes nothing where there is an outcome
    return [handle.outcome() for handle in handles]
