"""What telemetry a run writes."""

from __future__ import annotations

from esper.settings import PositiveCount, Section


class TelemetrySettings(Section):
    """Where a run tells what happens, beside the logger and the audit. None of it can stop training."""

    jsonl: bool = True
    """Write `telemetry.jsonl` into the run directory: a line for every event, one of them for every epoch."""

    tensorboard: bool = False
    """Write TensorBoard files into `tensorboard/` in the run directory; needs the extra `tensorboard`."""

    max_waiting: PositiveCount = 10_000
    """Events that may wait for a slow sink; what comes beyond is dropped, counted, and told of once."""
