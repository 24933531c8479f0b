"""Inside the training process: masks applied, kept after every step, taken back exactly; teachers; seeds."""

from esper.kasmina.changes import SeedJoined, UnitsCut, join
from esper.kasmina.distillation import Teacher, distillation_loss
from esper.kasmina.held import HANDS
from esper.kasmina.network import LiveNetwork
from esper.kasmina.preview import Preview, apply_statistics, compared, measured, recalibrate

__all__ = [
    "HANDS",
    "LiveNetwork",
    "Preview",
    "SeedJoined",
    "Teacher",
    "UnitsCut",
    "apply_statistics",
    "compared",
    "distillation_loss",
    "join",
    "measured",
    "recalibrate",
]
