"""Who is told what happens in a run, beside its log, its audit and the logger: nothing waits for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from esper.importance.tracker import ImportanceTracker
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
from esper.session.log import RunLog
from esper.session.saving import Saving

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

    def close(self) -> None:
        """Lets every sink take what it was told; a dead one is not waited for long."""
        for sink in self._sinks:
            sink.close()


def cost_of(tracker: ImportanceTracker, saving: Saving) -> dict[str, float | None]:
    """What tracking and checkpoints cost by now, as `EpochEnded` tells it."""
    share, stalls = tracker.overhead_share, saving.stalls
    return {
        "tracking_fraction": None if math.isnan(share) else share,
        "stall_ms_per_gb": stalls[-1] if stalls else None,
        "stall_seconds": saving.stall_seconds,
    }


def _files(run: Path, settings: TelemetrySettings, log: RunLog) -> Iterator[tuple[str, Writer]]:
    if settings.jsonl:
        yield TELEMETRY_FILE, JsonLines(run / TELEMETRY_FILE, log.says)
    if settings.tensorboard:
        yield TENSORBOARD_DIRECTORY, TensorBoard(run / TENSORBOARD_DIRECTORY)
