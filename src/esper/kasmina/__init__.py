"""Runtime inside the training process: masks that are applied, kept after every step, and taken back exactly."""

from esper.kasmina.masks import MaskKeeper

__all__ = ["MaskKeeper"]
