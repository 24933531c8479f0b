"""Inside the training process: masks applied, kept after every step, taken back exactly; teachers."""

from esper.kasmina.distillation import Teacher, distillation_loss
from esper.kasmina.network import LiveNetwork

__all__ = ["LiveNetwork", "Teacher", "distillation_loss"]
