"""Offline analysis: what a checkpoint's units are worth, measured in worker processes on an exact twin."""

from esper.elesh.analysis import PRELOAD, confidence, ready
from esper.elesh.analyst import OfflineAnalyst
from esper.elesh.blocks import BlockMeasures
from esper.elesh.case import Case, DataRef, OpenCase, encode_data, open_case, read_data, read_optimizer
from esper.elesh.curves import Bench, Curve
from esper.elesh.errands import Errands
from esper.elesh.evidence import Evidence, Tier
from esper.elesh.head_patterns import HeadPatterns
from esper.elesh.peak import PeakMemory
from esper.elesh.sampling import Part, close_ones, completed
from esper.elesh.screening import Screened, look_at_twin, screen
from esper.elesh.second_tier import find_blocks, find_heads
from esper.elesh.settings import AnalysisSettings
from esper.elesh.unit_measures import measure_units

__all__ = [
    "PRELOAD",
    "AnalysisSettings",
    "Bench",
    "BlockMeasures",
    "Case",
    "Curve",
    "DataRef",
    "Errands",
    "Evidence",
    "HeadPatterns",
    "OfflineAnalyst",
    "OpenCase",
    "Part",
    "PeakMemory",
    "Screened",
    "Tier",
    "close_ones",
    "completed",
    "confidence",
    "encode_data",
    "find_blocks",
    "find_heads",
    "look_at_twin",
    "measure_units",
    "open_case",
    "read_data",
    "read_optimizer",
    "ready",
    "screen",
]
