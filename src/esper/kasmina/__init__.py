"""Inside the training process: masks applied, kept after every step, taken back exactly; teachers."""

from esper.kasmina.changes import UnitsCut
from esper.kasmina.distillation import Teacher, distillation_loss
from esper.kasmina.held import HANDS
from esper.kasmina.network import LiveNetwork
from esper.kasmina.preview import Preview, apply_statistics, compared, measured, recalibrate

__all__ = [
    "HANDS",
    "LiveNetwork",
    "Preview",
    "Teacher",
    "UnitsCut",
    "apply_statistics",
    "compared",
    "distillation_loss",
    "measured",
    "recalibrate",
]
