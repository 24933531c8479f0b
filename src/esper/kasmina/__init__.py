"""Runtime inside the training process: masks applied, kept after every step, and taken back exactly."""

from esper.kasmina.masks import MaskKeeper
from esper.kasmina.network import LiveNetwork, PastCut, renumbered

__all__ = ["LiveNetwork", "MaskKeeper", "PastCut", "renumbered"]
