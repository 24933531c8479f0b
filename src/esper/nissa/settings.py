"""What telemetry a run writes."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from esper.errors import ConfigError
from esper.oona import checked_address
from esper.settings import PositiveCount, Section


def _address(given: str) -> str:
    try:
        return checked_address(given)
    except ConfigError as error:
        raise ValueError(str(error)) from error  # which setting it is, whoever asks for settings says


class TelemetrySettings(Section):
    """Where a run tells what happens, beside the logger and the audit. None of it can stop training."""

    jsonl: bool = True
    """Write `telemetry.jsonl` into the run directory: a line for every event, one of them for every epoch."""

    tensorboard: bool = False
    """Write TensorBoard files into `tensorboard/` in the run directory; needs the extra `tensorboard`."""

    opentelemetry: bool = False
    """Send numbers and news to an OpenTelemetry collector, where `OTEL_EXPORTER_OTLP_ENDPOINT` says; needs
    the extra `opentelemetry`."""

    console: bool = False
    """Show a live view on standard error where that is a terminal: epoch, metric, what is gone, what Esper
    does and costs. What is logged and printed stays above it. For scripts without a progress bar of their
    own; `esper follow RUN` shows the same from another terminal."""

    bus: Annotated[str, AfterValidator(_address)] | None = None
    """Publish every event to this bus, which `esper watch` follows: a file that ends in `.sqlite`, or
    `redis://host:port/db` (extra `redis`)."""

    three_tier_aggregation: bool = True
    """Time every step and sum up what was counted: one `telemetry_summary` for every epoch."""

    aggregation_ratio: PositiveCount = 32
    """How many values make a window, and how many windows one summary."""

    max_waiting: PositiveCount = 10_000
    """Events that may wait for a slow sink; what comes beyond is dropped, counted, and told of once."""
