"""Pictures of a run: the report as one HTML page, its charts, and the map of the network."""

from esper.report import figures
from esper.report.arms import arm_cells, verdicts
from esper.report.comparison import MOST_RUNS, cost_comparison, quality_comparison
from esper.report.fates import fates
from esper.report.html import sections, style, summary_of, write_report
from esper.report.network_map import MapGroup, MapLayer, MapPart, network_map
from esper.report.promises import Measures, Promise, Standing, promises
from esper.report.report import (
    NOT_APPLIED,
    ArmRow,
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
    "MOST_RUNS",
    "NOT_APPLIED",
    "ArmRow",
    "DecisionRow",
    "EpochRow",
    "Latency",
    "MapGroup",
    "MapLayer",
    "MapPart",
    "Mark",
    "Measures",
    "Overhead",
    "Promise",
    "Proof",
    "RunReport",
    "SeedRow",
    "Standing",
    "WidthRow",
    "WorkerRow",
    "arm_cells",
    "cost_comparison",
    "fates",
    "figures",
    "network_map",
    "promises",
    "quality_comparison",
    "sections",
    "style",
    "summary_of",
    "verdicts",
    "write_report",
]
