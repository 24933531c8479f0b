"""Inside the training process: masks applied, kept after every step, taken back exactly; teachers; seeds."""

from esper.kasmina.changes import SeedJoined, UnitsCut, join
from esper.kasmina.distillation import StaticKDLoss, Teacher, distillation_loss
from esper.kasmina.held import HANDS
from esper.kasmina.network import LiveNetwork
from esper.kasmina.plain_copies import PlainCopy, memory_of
from esper.kasmina.preview import Preview, compared, measured, recalibrated
from esper.kasmina.settings import TeachingSettings
from esper.kasmina.steps import STEPS
from esper.kasmina.teacher import CheckpointedTeacher

__all__ = [
    "HANDS",
    "STEPS",
    "CheckpointedTeacher",
    "LiveNetwork",
    "PlainCopy",
    "Preview",
    "SeedJoined",
    "StaticKDLoss",
    "Teacher",
    "TeachingSettings",
    "UnitsCut",
    "compared",
    "distillation_loss",
    "join",
    "measured",
    "memory_of",
    "recalibrated",
]
