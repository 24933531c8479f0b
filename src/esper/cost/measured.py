"""How long two networks take for the same batch, timed by turns in one process."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from esper.anatomy.graph import undisturbed
from esper.batches import device_of, repeated, samples
from esper.cost.stopwatch import seconds_of
from esper.report import Latency

MIN_REPEATS = 30
TIMED_PASSES = 3
LEAST_SECONDS, MAX_SECONDS = 0.3, 10.0


def compare_latency(
    before: nn.Module,
    after: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch_size: int | None = 64,
) -> Latency:
    """Median forward time of both networks at `batch_size` (the inputs are repeated to it), in eval mode.

    Without a size the inputs are taken as they are, by networks that work with no other number of samples.

    The networks take turns, so that what else the machine does hits both. A turn is several passes, the first
    of which is not timed: right after the other network the allocator fetches memory anew, which a network
    that runs alone does not meet.
    """
    inputs = (args, kwargs) if batch_size is None else repeated((args, kwargs), batch_size)
    device = device_of(after)
    times: tuple[list[float], list[float]] = ([], [])
    with undisturbed(before), undisturbed(after), torch.inference_mode():
        start = time.perf_counter()
        while len(times[0]) < MIN_REPEATS or time.perf_counter() - start < LEAST_SECONDS:
            for model, found in zip((before, after), times, strict=True):
                run = partial(model, *inputs[0], **inputs[1])
                turn = [seconds_of(run, device) * 1e3 for _ in range(1 + TIMED_PASSES)]
                found.extend(turn[1:])
            if time.perf_counter() - start > MAX_SECONDS:
                break
    (first, first_spread), (second, second_spread) = (_summary(found) for found in times)
    return Latency(samples(inputs), first, second, first_spread, second_spread, str(device), len(times[0]))


def _summary(milliseconds: list[float]) -> tuple[float, float]:
    # The middle, and the distance between the quartiles.
    low, middle, high = np.percentile(milliseconds, [25, 50, 75])
    return float(middle), float(high - low)
