"""How long training took, on the clock and on the processor, without what is looked at beside it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass


@dataclass
class Clock:
    """Adds up the time inside its blocks.

    Attributes:
        seconds: on the clock.
        processor_seconds: of this process and its children that have ended, which other work on the machine
            lengthens little: workers count when `finish` has closed them.
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0

    def __enter__(self) -> Clock:
        self._begun = time.perf_counter(), _processor_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._begun[0]
        self.processor_seconds += _processor_seconds() - self._begun[1]


def _processor_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
