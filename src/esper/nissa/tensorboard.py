"""Telemetry as TensorBoard shows it: curves over optimizer steps, and what Esper did as texts beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from esper.errors import ConfigError
from esper.nissa.event import Event, Moment, Severity, kind_of
from esper.nissa.progress import EpochEnded, TelemetrySummary


class TensorBoard:
    """Writes scalars for every epoch, and a text for every event that people are told of.

    Args:
        directory: where the event files go; several runs side by side are folders beside each other.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, directory: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise ConfigError(
                "telemetry.tensorboard needs tensorboardX, which is not installed: "
                "pip install 'esper-torch[tensorboard]'. Nothing was changed."
            ) from error
        self._writer: Any = None
        self._make: Callable[[], Any] = lambda: SummaryWriter(str(directory), flush_secs=10)
        self._step = 0

    def write(self, at_seconds: float, event: Event) -> None:
        if self._writer is None:
            self._writer = self._make()
        if isinstance(event, EpochEnded):
            self._step = event.step
            for name, value in _scalars(event):
                self._writer.add_scalar(name, value, event.step, walltime=at_seconds)
            self._writer.flush()
        elif isinstance(event, TelemetrySummary):
            for name, value in _quantiles(event):
                self._writer.add_scalar(name, value, self._step, walltime=at_seconds)
        elif event.severity >= Severity.NEWS:
            name = event.kind if isinstance(event, Moment) and event.kind else kind_of(type(event))
            self._writer.add_text(f"esper/{name}", event.text, self._step, walltime=at_seconds)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _quantiles(event: TelemetrySummary) -> Iterator[tuple[str, float]]:
    """How every quantity of a summary is spread."""
    for name, spread in event.spreads.items():
        yield f"{name}/not_finite", float(spread.not_finite)
        for rank, value in (("p50", spread.p50), ("p95", spread.p95), ("p99", spread.p99)):
            if value is not None:
                yield f"{name}/{rank}", value


def _scalars(event: EpochEnded) -> Iterator[tuple[str, float]]:
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
