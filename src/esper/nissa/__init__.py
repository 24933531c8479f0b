"""Telemetry: what a run did, as values that can be stored, shown and compared."""

from esper.nissa.html import render_html, write_report
from esper.nissa.network_map import MapGroup, MapLayer, MapPart, network_map
from esper.nissa.report import (
    DecisionRow,
    EpochRow,
    Latency,
    Mark,
    MarkKind,
    Overhead,
    Proof,
    RunReport,
    WidthRow,
    WorkerRow,
)

__all__ = [
    "DecisionRow",
    "EpochRow",
    "Latency",
    "MapGroup",
    "MapLayer",
    "MapPart",
    "Mark",
    "MarkKind",
    "Overhead",
    "Proof",
    "RunReport",
    "WidthRow",
    "WorkerRow",
    "network_map",
    "render_html",
    "write_report",
]
