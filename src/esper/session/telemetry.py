"""Who is told what happens in a run, beside its log, its audit and the logger: nothing waits for them."""

from __future__ import annotations

import base64
import math
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esper.narset import Capped, Region, Summary, merged, message_of, spread_of, summaries_of
from esper.nissa import (
    TELEMETRY_FILE,
    Apart,
    Forwarding,
    JsonLines,
    OnBus,
    OpenTelemetry,
    Sink,
    TelemetrySettings,
    TensorBoard,
    Writer,
    progress,
    rank_events,
)
from esper.session.at_steps import AtSteps
from esper.session.live import LiveView
from esper.session.log import RunLog
from esper.session.pool import worker_rows
from esper.session.promises import PromiseWatch
from esper.session.unfinished import hold, let_go

if TYPE_CHECKING:
    from esper.session.assembly import Assembly

TENSORBOARD_DIRECTORY = "tensorboard"

_ALL = "all-ranks"
"""The region that is the sum of those of several processes."""

_MAX_FRACTION = 0.01
"""Share of the time between steps that summing up may take; only steps of a millisecond come near it."""


class Counts:
    """What one rank counts step by step.

    Args:
        region: where it is summed up.
        clock: seconds.
    """

    def __init__(self, region: Region, clock: Callable[[], float]) -> None:
        self.region = region
        self._clock = clock
        self._last_step = math.nan

    @classmethod
    def by(
        cls, settings: TelemetrySettings, rank: int = 0, clock: Callable[[], float] = time.perf_counter
    ) -> Counts | None:
        """For a rank, by the settings of the run; None if nothing is to be counted."""
        if not settings.three_tier_aggregation:
            return None
        ratio = settings.aggregation_ratio
        return cls(Region(f"rank-{rank}", ratio, max_fraction=_MAX_FRACTION, clock=clock), clock)

    def step(self) -> None:
        """The optimizer has made a step: it took as long as the one before is ago."""
        now = self._clock()
        if now > self._last_step:  # false after the end of a period, which is no part of a step
            self.region.record("step_seconds", now - self._last_step)
        self._last_step = now

    def pause(self) -> None:
        """What comes now is no step."""
        self._last_step = math.nan

    def waited(self, seconds: float) -> None:
        """So long this rank has waited until the last one had ended the period, too."""
        self.region.record_many("waited_seconds", [seconds])

    def message(self) -> bytes:
        """Everything since the last one, to be added up by another process."""
        summaries, dropped = self.region.drain()
        return message_of(self.region.name, summaries, dropped).SerializeToString()


def _spreads(summaries: Mapping[str, Summary]) -> dict[str, progress.Spread]:
    return {name: spread_of(one) for name, one in summaries.items()}


class Telemetry:
    """The sinks of a run that have a thread each, told from now on, and what is counted step by step.

    Args:
        run: the run directory.
        settings: which files are written.
        own: sinks of the user's.
        log: of the run.
        clock: seconds.

    Raises:
        ConfigError: what a file needs is not installed.
    """

    def __init__(
        self,
        run: Path,
        settings: TelemetrySettings,
        own: Sequence[Sink],
        log: RunLog,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        writers = [*_files(run, settings, log), *((type(sink).__name__, Forwarding(sink)) for sink in own)]
        self._sinks = [Apart(name, writer, log.tell, settings.max_waiting) for name, writer in writers]
        self._capped = Capped(self._sinks, log.tell)
        log.telling.sinks.append(self._capped)
        self.promises = PromiseWatch(log.tell)
        """Whether Esper keeps what it promises of itself."""
        log.telling.sinks.append(self.promises)  # last: what it tells comes after what it is about
        self._log = log
        self.counts = Counts.by(settings, clock=clock)
        """What is counted in this process; None if nothing is."""
        self.of_others: Sequence[bytes] = ()
        """What other ranks have counted until now, each as it tells it."""
        self.at_steps = AtSteps()
        """What is done at every step, as a share of it."""
        self._run = run
        hold(run, log)

    def step(self) -> None:
        """The optimizer has made a step."""
        if self.counts is not None:
            self.counts.step()

    def end_epoch(self, epoch: int, esper_seconds: float, metrics: Mapping[str, float]) -> None:
        """Tells the summary of the period that has ended, if anything was counted in it.

        Args:
            epoch: that has ended.
            esper_seconds: that its end waited for Esper.
            metrics: that it reported.
        """
        self.at_steps.pause()
        if self.counts is None:
            return
        self.counts.pause()
        self.counts.region.record_many("esper_seconds", [esper_seconds])
        self.counts.region.record_many("loss", [metrics["loss"]] if "loss" in metrics else [])
        self._tell(self.counts.region, epoch)

    def end_rest(self, epoch: int) -> None:
        """The run has ended: tells of steps after the last period, if there were any."""
        if self.counts is not None and not self.counts.region.is_empty:
            self._tell(self.counts.region, epoch)

    def _tell(self, region: Region, epoch: int) -> None:
        own, dropped = region.drain()
        if dropped:
            self._log.tell(progress.ValuesDropped(_MAX_FRACTION))
        others, self.of_others = [summaries_of(one) for one in self.of_others], ()
        name, summaries, senders = region.name, own, 1
        if others:
            regions = [(region.name, own, dropped), *others]
            for rank, counted, lost in regions:
                self._log.tell(rank_events.RankSummary(epoch, rank, _spreads(counted), lost))
            names = dict.fromkeys(name for _, counted, _ in regions for name in counted)
            summaries = {n: merged(counted[n] for _, counted, _ in regions if n in counted) for n in names}
            name, senders = _ALL, len({rank for rank, *_ in regions})
            dropped = sum(lost for *_, lost in regions)
        message = message_of(name, summaries, dropped, senders).SerializeToString()
        self._log.tell(
            progress.TelemetrySummary(
                epoch=epoch,
                region=name,
                spreads=_spreads(summaries),
                dropped=dropped,
                held_back=self._capped.held_back,
                message=base64.b64encode(message).decode(),
            )
        )

    def settle(self) -> None:
        """Waits until every sink has taken what it was told, and tells of one that does not."""
        for sink in self._sinks:
            sink.settle()

    def close(self) -> None:
        """Lets every sink take what it was told; a dead one is not waited for long."""
        let_go(self._run)
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
    if settings.opentelemetry:
        collector = OpenTelemetry(run.name)
        yield f"OpenTelemetry at {collector.address}", collector
    if settings.bus is not None:
        on_bus = OnBus(settings.bus, run.resolve().name, secrets.token_hex(4), log.says)
        yield f"the bus {on_bus.address}", on_bus
    if settings.console and sys.stderr.isatty():
        yield "the live view", LiveView(run, log.says)
