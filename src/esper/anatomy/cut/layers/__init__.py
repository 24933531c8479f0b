"""Whole residual layers: found in a graph, masked as units, left out of a program or of the live network."""

from esper.anatomy.cut.layers.blocks import Block, Sum, blocks_of, residual_blocks, sums, traced_for, unread
from esper.anatomy.cut.layers.omission import Omission, forget_unread
from esper.anatomy.cut.layers.removal import Removed, forget, remove
from esper.anatomy.cut.layers.removed import Answer, RemovedModule, become_removed
from esper.anatomy.cut.layers.units import block_names, with_layers

__all__ = [
    "Answer",
    "Block",
    "Omission",
    "Removed",
    "RemovedModule",
    "Sum",
    "become_removed",
    "block_names",
    "blocks_of",
    "forget",
    "forget_unread",
    "remove",
    "residual_blocks",
    "sums",
    "traced_for",
    "unread",
    "with_layers",
]
