"""How long work takes: waited for, or beside a training step by a clock or by a GPU's own events."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch

from esper.leyline import Clock


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """How long one call takes until its device has done everything."""
    _settle(device)
    start = time.perf_counter()
    run()
    _settle(device)
    return time.perf_counter() - start


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch(Protocol):
    """Times stretches of work one after the other, without ever waiting for a device."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def finished_seconds(self) -> list[float]:
        """The durations that became known since the last call, oldest first."""
        ...


class ClockStopwatch:
    """Times work that is over when the call returns.

    Args:
        clock: Monotonic time in seconds.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started = 0.0
        self._finished: list[float] = []

    def start(self) -> None:
        self._started = self._clock()

    def stop(self) -> None:
        self._finished.append(self._clock() - self._started)

    def finished_seconds(self) -> list[float]:
        finished, self._finished = self._finished, []
        return finished


class DeviceStopwatch:
    """Times work on a GPU's default work queue; the cost is the larger of the device's time and the caller's.

    Args:
        clock: Monotonic time in seconds, for the caller's side.
        device: The GPU.
    """

    def __init__(self, clock: Clock, device: torch.device) -> None:
        self._clock = clock
        self._device = device
        self._started: tuple[float, torch.Event] | None = None
        self._running: deque[tuple[float, torch.Event, torch.Event]] = deque()

    def start(self) -> None:
        self._started = (self._clock(), self._event())

    def stop(self) -> None:
        if self._started is not None:
            seconds, begin = self._started
            self._running.append((self._clock() - seconds, begin, self._event()))

    def finished_seconds(self) -> list[float]:
        finished: list[float] = []
        # They end in the order of the queue, so the first that still runs ends the list.
        while self._running and self._running[0][2].query():
            seconds, begin, end = self._running.popleft()
            finished.append(max(seconds, begin.elapsed_time(end) / 1000.0))
        return finished

    def _event(self) -> torch.Event:
        event = torch.Event(self._device, enable_timing=True)
        event.record()
        return event


def stopwatch_for(device: torch.device, clock: Clock) -> Stopwatch:
    """The stopwatch that can time work on `device`."""
    return DeviceStopwatch(clock, device) if device.type in ("cuda", "xpu") else ClockStopwatch(clock)
