"""Offline analysis: what a checkpoint's units are worth, measured in worker processes on an exact twin."""

from esper.elesh.blocks import BlockMeasures
from esper.elesh.case import Case, DataRef, encode_data, read_data
from esper.elesh.evidence import Evidence, Tier
from esper.elesh.head_patterns import HeadPatterns
from esper.elesh.samples import HeldOut, hold_out, merged, resized
from esper.elesh.second_tier import UnitFindings
from esper.elesh.settings import AnalysisSettings
from esper.elesh.workers.task import TaskHandle, TaskOutcome, WorkerPool, WorkerTask

__all__ = [
    "AnalysisSettings",
    "BlockMeasures",
    "Case",
    "DataRef",
    "Evidence",
    "HeadPatterns",
    "HeldOut",
    "TaskHandle",
    "TaskOutcome",
    "Tier",
    "UnitFindings",
    "WorkerPool",
    "WorkerTask",
    "encode_data",
    "hold_out",
    "merged",
    "read_data",
    "resized",
]
