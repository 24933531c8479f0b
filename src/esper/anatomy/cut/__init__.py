"""Taking units out of a network and its optimizer for good: channels, heads, experts and layers."""

from esper.anatomy.cut.blocks import Block, Sum, blocks_of, flops_without, residual_blocks, sums, unread
from esper.anatomy.cut.companions import copy_in
from esper.anatomy.cut.feasibility import feasible, put_back, refused_groups, refused_layers
from esper.anatomy.cut.form import Form, Snapshot
from esper.anatomy.cut.layer_units import block_names, with_layers
from esper.anatomy.cut.optimizer_state import WeightCopies, zero_state
from esper.anatomy.cut.program import cut_program, cut_traced
from esper.anatomy.cut.removal import Removal, program_without, remove_blocks
from esper.anatomy.cut.removed import RemovedModule
from esper.anatomy.cut.surgery import Cut, cut, uncut

__all__ = [
    "Block",
    "Cut",
    "Form",
    "Removal",
    "RemovedModule",
    "Snapshot",
    "Sum",
    "WeightCopies",
    "block_names",
    "blocks_of",
    "copy_in",
    "cut",
    "cut_program",
    "cut_traced",
    "feasible",
    "flops_without",
    "program_without",
    "put_back",
    "refused_groups",
    "refused_layers",
    "remove_blocks",
    "residual_blocks",
    "sums",
    "uncut",
    "unread",
    "with_layers",
    "zero_state",
]
