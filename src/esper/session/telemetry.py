"""Who is told what happens in a run, beside its log, its audit and the logger: nothing waits for them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esper.nissa import (
    TELEMETRY_FILE,
    Apart,
    Forwarding,
    JsonLines,
    Sink,
    TelemetrySettings,
    TensorBoard,
    Writer,
)
from esper.session.live import LiveView
from esper.session.log import RunLog
from esper.session.pool import worker_rows
from esper.session.promises import PromiseWatch

if TYPE_CHECKING:
    from esper.session.assembly import Assembly

TENSORBOARD_DIRECTORY = "tensorboard"


class Telemetry:
    """The sinks of a run that have a thread each; they are told from now on.

    Args:
        run: the run directory.
        settings: which files are written.
        own: sinks of the user's.
        log: of the run.

    Raises:
        ConfigError: what a file needs is not installed.
    """

    def __init__(self, run: Path, settings: TelemetrySettings, own: Sequence[Sink], log: RunLog) -> None:
        writers = [*_files(run, settings, log), *((type(sink).__name__, Forwarding(sink)) for sink in own)]
        self._sinks = [Apart(name, writer, log.tell, settings.max_waiting) for name, writer in writers]
        log.telling.sinks.extend(self._sinks)
        self.promises = PromiseWatch(log.tell)
        """Whether Esper keeps what it promises of itself."""
        log.telling.sinks.append(self.promises)  # last: what it tells comes after what it is about

    def close(self) -> None:
        """Lets every sink take what it was told; a dead one is not waited for long."""
        for sink in self._sinks:
            sink.close()


def cost_of(parts: Assembly) -> dict[str, float | None]:
    """What tracking, checkpoints and workers cost by now, as `EpochEnded` tells it."""
    share, saving = parts.tracker.overhead_share, parts.saving
    stalls, peaks = saving.stalls, [row.peak_bytes for row in worker_rows(parts.pool) if row.peak_bytes]
    return {
        "tracking_fraction": None if math.isnan(share) else share,
        "stall_ms_per_gb": stalls[-1] if stalls else None,
        "stall_seconds": saving.stall_seconds,
        "worker_peak_bytes": max(peaks, default=None),
    }


def _files(run: Path, settings: TelemetrySettings, log: RunLog) -> Iterator[tuple[str, Writer]]:
    if settings.jsonl:
        yield TELEMETRY_FILE, JsonLines(run / TELEMETRY_FILE, log.says)
    if settings.tensorboard:
        yield TENSORBOARD_DIRECTORY, TensorBoard(run / TENSORBOARD_DIRECTORY)
    if settings.console and sys.stderr.isatty():
        yield "the live view", LiveView(run, log.says)
