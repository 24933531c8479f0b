"""Pictures of a run: the report as one HTML page, its charts, and the map of the network."""

from esper.report import figures
from esper.report.html import write_report
from esper.report.network_map import MapGroup, MapLayer, MapPart, network_map
from esper.report.report import (
    DecisionRow,
    EpochRow,
    Latency,
    Mark,
    Overhead,
    Proof,
    RunReport,
    SeedRow,
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
    "Overhead",
    "Proof",
    "RunReport",
    "SeedRow",
    "WidthRow",
    "WorkerRow",
    "figures",
    "network_map",
    "write_report",
]
