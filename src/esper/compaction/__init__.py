"""`esper.compact`: a network made smaller in one call, without a training run."""

from esper.compaction.compact import compact
from esper.compaction.offline import compact_checkpoint, finished_files

__all__ = ["compact", "compact_checkpoint", "finished_files"]
