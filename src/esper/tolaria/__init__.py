"""Tolaria: the training loop for those who have none; it prunes, grows and is taught in one run."""

from esper.tolaria.recomputed import Recomputed
from esper.tolaria.settings import LoopSettings
from esper.tolaria.trainer import Metrics, Trainer

__all__ = ["LoopSettings", "Metrics", "Recomputed", "Trainer"]
