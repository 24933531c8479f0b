"""An exact copy of a network as a stored program, which runs where the code of the network is not."""

from esper.anatomy.twin.deployed import deployed, from_bytes, plain, to_bytes
from esper.anatomy.twin.narrowed_norms import left_as_tensors, shrink
from esper.anatomy.twin.rows import for_each_row
from esper.anatomy.twin.twin import Gates, Twin

__all__ = [
    "Gates",
    "Twin",
    "deployed",
    "for_each_row",
    "from_bytes",
    "left_as_tensors",
    "plain",
    "shrink",
    "to_bytes",
]
