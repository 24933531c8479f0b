"""Telemetry as TensorBoard shows it: curves over optimizer steps, and what Esper did as texts beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper.errors import ConfigError
from esper.files import hide, make_private
from esper.nissa.event import Event, Moment, Severity, kind_of
from esper.nissa.progress import EpochEnded, TelemetrySummary
from esper.nissa.scalars import quantiles, scalars


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

        def make() -> Any:
            make_private(directory)
            writer = SummaryWriter(str(directory), flush_secs=10)
            for file in directory.glob("events.out.*"):
                hide(file)
            return writer

        self._make: Callable[[], Any] = make
        self._step = 0

    def write(self, at_seconds: float, event: Event) -> None:
        if self._writer is None:
            self._writer = self._make()
        if isinstance(event, EpochEnded):
            self._step = event.step
            for name, value in scalars(event):
                self._writer.add_scalar(name, value, event.step, walltime=at_seconds)
            self._writer.flush()
        elif isinstance(event, TelemetrySummary):
            for name, value in quantiles(event):
                self._writer.add_scalar(name, value, self._step, walltime=at_seconds)
        elif event.severity >= Severity.NEWS:
            name = event.kind if isinstance(event, Moment) and event.kind else kind_of(type(event))
            self._writer.add_text(f"esper/{name}", event.text, self._step, walltime=at_seconds)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
