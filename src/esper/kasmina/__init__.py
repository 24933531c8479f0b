"""Inside the training process: masks applied, kept after every step, taken back exactly; teachers."""

from esper.kasmina.distillation import Teacher, distillation_loss
from esper.kasmina.held import HANDS
from esper.kasmina.network import LiveNetwork
from esper.kasmina.preview import apply_statistics, confirm, recalibrate

__all__ = [
    "HANDS",
    "LiveNetwork",
    "Teacher",
    "apply_statistics",
    "confirm",
    "distillation_loss",
    "recalibrate",
]
