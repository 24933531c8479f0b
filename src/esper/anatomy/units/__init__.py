"""From a traced network to its units: labels are propagated, resolved and gathered to groups."""

from esper.anatomy.units.held import work_held
from esper.anatomy.units.inspection import anatomy_of, inspect
from esper.anatomy.units.masking import masked_axes, zero_masked
from esper.anatomy.units.propagate import Propagation, propagate
from esper.anatomy.units.survivors import Left, Survivors

__all__ = [
    "Left",
    "Propagation",
    "Survivors",
    "anatomy_of",
    "inspect",
    "masked_axes",
    "propagate",
    "work_held",
    "zero_masked",
]
