"""Taking units out of a network and its optimizer for good: channels, heads, experts and layers."""

from esper.anatomy.cut.companions import copy_in
from esper.anatomy.cut.feasibility import feasible, put_back, refusals, refused_groups
from esper.anatomy.cut.form import Form, Snapshot
from esper.anatomy.cut.layers import (
    Block,
    RemovedModule,
    Sum,
    blocks_of,
    residual_blocks,
    sums,
    unread,
)
from esper.anatomy.cut.live import cut
from esper.anatomy.cut.look import Look
from esper.anatomy.cut.optimizers import WeightCopies, refusal_of, zero_state
from esper.anatomy.cut.origin import origin_of
from esper.anatomy.cut.program import cut_program, cut_traced
from esper.anatomy.cut.result import Cut

__all__ = [
    "Block",
    "Cut",
    "Form",
    "Look",
    "RemovedModule",
    "Snapshot",
    "Sum",
    "WeightCopies",
    "blocks_of",
    "copy_in",
    "cut",
    "cut_program",
    "cut_traced",
    "feasible",
    "origin_of",
    "put_back",
    "refusal_of",
    "refusals",
    "refused_groups",
    "residual_blocks",
    "sums",
    "unread",
    "zero_state",
]
