"""The numbers of telemetry by name, as curves want them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from esper.nissa.progress import EpochEnded, TelemetrySummary


def scalars(event: EpochEnded) -> Iterator[tuple[str, float]]:
    """Every number of an epoch that was measured."""
    measured: dict[str, float | None] = {
        **{f"metrics/{name}": value for name, value in event.metrics.items()},
        "network/flops": event.flops,
        "network/parameters": event.parameters,
        "network/masked_units": event.masked_units,
        "cost/epoch_seconds": event.seconds,
        "cost/esper_seconds": event.esper_seconds,
        "cost/tracking_fraction": event.tracking_fraction,
        "cost/checkpoint_stall_ms_per_gb": event.stall_ms_per_gb,
        "cost/checkpoint_stall_seconds": event.stall_seconds,
        "epoch": event.epoch,
    }
    return (
        (name, float(value))
        for name, value in measured.items()
        if value is not None and not math.isnan(value)
    )


def quantiles(event: TelemetrySummary) -> Iterator[tuple[str, float]]:
    """How every quantity of a summary is spread."""
    for name, spread in event.spreads.items():
        yield f"{name}/not_finite", float(spread.not_finite)
        for rank, value in (("p50", spread.p50), ("p95", spread.p95), ("p99", spread.p99)):
            if value is not None:
                yield f"{name}/{rank}", value
