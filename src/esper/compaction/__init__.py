"""`esper.compact`: a network made smaller in one call, without a training run."""

from esper.compaction.compact import compact
from esper.compaction.configuration import UNSAID, describable, describe, has_configuration
from esper.compaction.obstacles import what_holds
from esper.compaction.offline import compact_checkpoint, finished_files

__all__ = [
    "UNSAID",
    "compact",
    "compact_checkpoint",
    "describable",
    "describe",
    "finished_files",
    "has_configuration",
    "what_holds",
]
