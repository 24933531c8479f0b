"""Inside the training process: masks applied, kept after every step, taken back exactly; teachers."""

from esper.kasmina.distillation import Teacher, distillation_loss
from esper.kasmina.masks import MaskKeeper
from esper.kasmina.network import LiveNetwork, PastCut
from esper.kasmina.numbers import renumbered

__all__ = ["LiveNetwork", "MaskKeeper", "PastCut", "Teacher", "distillation_loss", "renumbered"]
