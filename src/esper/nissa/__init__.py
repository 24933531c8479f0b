"""Telemetry: what happened is one value, emitted once; logger and run log are sinks of it."""

from esper.nissa import acts, events, seed_events, teacher_events
from esper.nissa.event import Event, MarkKind, Moment
from esper.nissa.sinks import LOGGER, FanOut, ListSink, LoggerSink, Sink

__all__ = [
    "LOGGER",
    "Event",
    "FanOut",
    "ListSink",
    "LoggerSink",
    "MarkKind",
    "Moment",
    "Sink",
    "acts",
    "events",
    "seed_events",
    "teacher_events",
]
