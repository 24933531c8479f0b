"""The settings of the checkpoint store."""

from __future__ import annotations

from esper.settings import PositiveCount, Section


class CheckpointSettings(Section):
    """How checkpoints are kept."""

    keep_last: PositiveCount = 3
    """How many of the newest verified checkpoints stay, beside the baseline and every pinned one."""

    background: bool = True
    """Save beside training: training pays for a copy only. Off: training waits until the save is durable."""

    encrypt_weights: bool = False
    """Encrypt weights and optimizer state too. Importance and decisions always are, by the run's key ring."""
