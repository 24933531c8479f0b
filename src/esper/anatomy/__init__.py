"""What a network is made of: units that can be removed, how to remove them, and the proof that nothing else changed."""

from esper.anatomy.inspection import anatomy_of, inspect
from esper.anatomy.structure import Anatomy, FrozenAxis, Gate, Group, Kind, Member, TensorInfo, Term
from esper.anatomy.trace import Loss, Traced, trace

__all__ = [
    "Anatomy",
    "FrozenAxis",
    "Gate",
    "Group",
    "Kind",
    "Loss",
    "Member",
    "TensorInfo",
    "Term",
    "Traced",
    "anatomy_of",
    "inspect",
    "trace",
]
