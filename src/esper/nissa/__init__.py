"""Telemetry: what happened is one value, emitted once; logger, run log, files and pages are sinks of it."""

from esper.nissa import (
    acts,
    assumed,
    events,
    given_events,
    kernel_events,
    mail_events,
    metric_events,
    progress,
    promises,
    rank_events,
    seed_events,
    teacher_events,
)
from esper.nissa.apart import Apart, Forwarding, Writer
from esper.nissa.event import Event, MarkKind, Moment, Severity, kind_of
from esper.nissa.jsonl import TELEMETRY_FILE, JsonLines, line_of
from esper.nissa.kinds import MARKS, NOTED, OF_SEEDS
from esper.nissa.on_bus import OnBus
from esper.nissa.otel import OpenTelemetry
from esper.nissa.progress import Spread
from esper.nissa.settings import TelemetrySettings
from esper.nissa.sinks import LOGGER, FanOut, ListSink, LoggerSink, Sink
from esper.nissa.tensorboard import TensorBoard

__all__ = [
    "LOGGER",
    "MARKS",
    "NOTED",
    "OF_SEEDS",
    "TELEMETRY_FILE",
    "Apart",
    "Event",
    "FanOut",
    "Forwarding",
    "JsonLines",
    "ListSink",
    "LoggerSink",
    "MarkKind",
    "Moment",
    "OnBus",
    "OpenTelemetry",
    "Severity",
    "Sink",
    "Spread",
    "TelemetrySettings",
    "TensorBoard",
    "Writer",
    "acts",
    "assumed",
    "events",
    "given_events",
    "kernel_events",
    "kind_of",
    "line_of",
    "mail_events",
    "metric_events",
    "progress",
    "promises",
    "rank_events",
    "seed_events",
    "teacher_events",
]
