"""Telemetry: what a run did, as values that can be stored, shown and compared."""

from esper.nissa.html import render_html, write_report
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
)

__all__ = [
    "DecisionRow",
    "EpochRow",
    "Latency",
    "Mark",
    "MarkKind",
    "Overhead",
    "Proof",
    "RunReport",
    "WidthRow",
    "render_html",
    "write_report",
]
