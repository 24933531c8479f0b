"""How often tracking may happen: as often as keeps its share of the training time under a limit."""

from __future__ import annotations

import math
from collections import deque
from statistics import median

import torch
from torch import Tensor

from esper.leyline import Clock
from esper.settings import OpenFraction

_FIRST_STRIDE = 64
_REMEMBERED_STEPS = 65
_REMEMBERED_COSTS = 9


class OverheadGovernor:
    """Chooses the sampling stride from the measured cost of tracking and the measured time of a step.

    Call `is_due` once per training step; when it answers True, track, and give what that cost to `charge`,
    then or later. Medians keep a pause (an evaluation, a checkpoint) or one slow sample from moving the
    stride. The first sample is counted but not learned from: it pays for allocation and warm-up.

    Args:
        fraction: Largest share of the time that tracking may take in the steady state.
        clock: Monotonic time in seconds.
        max_stride: The rarest sampling.
        stride: A fixed stride; then nothing is chosen, and only the share is reported.
    """

    def __init__(
        self, fraction: OpenFraction, clock: Clock, max_stride: int = 4096, stride: int | None = None
    ) -> None:
        self._fraction = fraction
        self._clock = clock
        self._max_stride = max_stride
        self._is_fixed = stride is not None
        self._stride = stride or min(_FIRST_STRIDE, max_stride)
        self._steps_since_sample = self._stride - min(
            self._stride, 2
        )  # the first comes early, to learn early
        self._last: float | None = None
        self._intervals: deque[float] = deque(maxlen=_REMEMBERED_STEPS)
        self._costs: deque[float] = deque(maxlen=_REMEMBERED_COSTS)
        self._num_costs = 0
        self._cost_seconds = 0.0
        self._first_cost_seconds = 0.0
        self._elapsed_seconds = 0.0

    @property
    def stride(self) -> int:
        """One step in this many is sampled."""
        return self._stride

    @property
    def share(self) -> float:
        """The true share so far: all costs over all time between steps; NaN before the second step."""
        return self._cost_seconds / self._elapsed_seconds if self._elapsed_seconds > 0 else math.nan

    def is_due(self) -> bool:
        """Counts one step, and says whether to sample it."""
        now = self._clock()
        if self._last is not None:
            self._intervals.append(now - self._last)
            self._elapsed_seconds += now - self._last
        self._last = now
        self._steps_since_sample += 1
        if self._steps_since_sample < self._stride:
            return False
        # Due, but the share is spent: wait, though not beyond the rarest sampling.
        if self._is_in_debt() and self._steps_since_sample < self._max_stride:
            return False
        self._steps_since_sample = 0
        return True

    def pause(self) -> None:
        """The time until the next step is not training time, and is not counted."""
        self._last = None

    def charge(self, cost_seconds: float) -> None:
        """Tells what one sample cost."""
        self._cost_seconds += cost_seconds
        self._num_costs += 1
        if self._num_costs == 1:
            self._first_cost_seconds = cost_seconds
            return
        if self._is_fixed:
            return
        self._costs.append(cost_seconds)
        step_seconds = self._step_seconds()
        if step_seconds > 0:
            # median cost / (stride x step time) <= fraction, solved for the stride.
            stride = math.ceil(median(self._costs) / (self._fraction * step_seconds))
            self._stride = min(max(stride, 1), self._max_stride)

    def state(self) -> Tensor:
        """Where sampling is between two samples, so that a resumed run samples the same steps."""
        return torch.tensor([self._steps_since_sample, self._stride])

    def load_state(self, state: Tensor) -> None:
        """Goes on from `state`; a fixed stride stays as it was set."""
        since, stride = (max(int(number), 0) for number in state.tolist())
        self._steps_since_sample = since
        if not self._is_fixed:
            self._stride = min(max(stride, 1), self._max_stride)

    def _is_in_debt(self) -> bool:
        """Slow samples can cost more than the median that the stride rests on: then the next one waits."""
        if self._is_fixed or not self._costs:
            return False
        # The first sample paid for warm-up; it is no debt.
        spent = self._cost_seconds - self._first_cost_seconds
        return spent + median(self._costs) > self._fraction * self._elapsed_seconds * (1 + 1e-9)

    def _step_seconds(self) -> float:
        return median(self._intervals) if self._intervals else 0.0
