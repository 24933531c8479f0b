"""What a network costs under any mask, counted in FLOPs and parameters or measured in time."""

from esper.cost.cost import CostModel, CostName, Costs
from esper.cost.measured import compare_latency
from esper.cost.origin import Origin
from esper.cost.stopwatch import stopwatch_for
from esper.cost.timing import origin_of

__all__ = [
    "CostModel",
    "CostName",
    "Costs",
    "Origin",
    "compare_latency",
    "origin_of",
    "stopwatch_for",
]
