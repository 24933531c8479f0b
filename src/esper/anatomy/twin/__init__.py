"""An exact copy of a network as a stored program, which runs where the code of the network is not."""

from esper.anatomy.twin.ablation import Ablation
from esper.anatomy.twin.deployed import deployed, for_everybody, plain
from esper.anatomy.twin.gated import Gates
from esper.anatomy.twin.narrowed_norms import left_as_tensors, shrink
from esper.anatomy.twin.recalibration import averaged
from esper.anatomy.twin.rows import for_each_row
from esper.anatomy.twin.twin import Twin
from esper.anatomy.twin.variants import Variants, first_uses

__all__ = [
    "Ablation",
    "Gates",
    "Twin",
    "Variants",
    "averaged",
    "deployed",
    "first_uses",
    "for_each_row",
    "for_everybody",
    "left_as_tensors",
    "plain",
    "shrink",
]
