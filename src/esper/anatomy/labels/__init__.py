"""Which coordinates of which tensors live and die together: labels, facts about them, and their classes.

`rules` say it for one operator each; `esper.anatomy.units` walks over a graph with them.
"""

from esper.anatomy.labels.labels import Flow, LabelSpace, varying_axes
from esper.anatomy.labels.operators import (
    BIAS,
    CONVOLUTIONS,
    GROUPS,
    LINEAR,
    PADDING,
    groups_of,
    operands_of,
    with_operands,
)
from esper.anatomy.labels.resolve import Classes, resolve

__all__ = [
    "BIAS",
    "CONVOLUTIONS",
    "GROUPS",
    "LINEAR",
    "PADDING",
    "Classes",
    "Flow",
    "LabelSpace",
    "groups_of",
    "operands_of",
    "resolve",
    "varying_axes",
    "with_operands",
]
