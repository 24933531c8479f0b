"""What a network is made of: units that can be removed, how to remove them, and the proof of it."""

from esper.anatomy.blocks import Block, residual_blocks
from esper.anatomy.equivalence import Equivalence, Probe
from esper.anatomy.folding import Fold, fold, twins
from esper.anatomy.inspection import anatomy_of, inspect
from esper.anatomy.masking import masked_axes, zero_masked
from esper.anatomy.reconstruction import reconstruction
from esper.anatomy.removal import Removal, program_without, remove_blocks
from esper.anatomy.structure import Anatomy, FrozenAxis, Gate, Group, Kind, Member, TensorInfo, Term
from esper.anatomy.surgery import Cut, cut, uncut
from esper.anatomy.trace import Loss, Traced, primary_output, split_sample, trace

__all__ = [
    "Anatomy",
    "Block",
    "Cut",
    "Equivalence",
    "Fold",
    "FrozenAxis",
    "Gate",
    "Group",
    "Kind",
    "Loss",
    "Member",
    "Probe",
    "Removal",
    "TensorInfo",
    "Term",
    "Traced",
    "anatomy_of",
    "cut",
    "fold",
    "inspect",
    "masked_axes",
    "primary_output",
    "program_without",
    "reconstruction",
    "remove_blocks",
    "residual_blocks",
    "split_sample",
    "trace",
    "twins",
    "uncut",
    "zero_masked",
]
