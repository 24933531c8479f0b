"""What modules say of their sizes beside their weights, and how it follows a cut."""

from esper.anatomy.cut.modules.attention import CutMultiheadAttention
from esper.anatomy.cut.modules.attributes import fit_attributes
from esper.anatomy.cut.modules.sizes import refresh, set_attribute

__all__ = ["CutMultiheadAttention", "fit_attributes", "refresh", "set_attribute"]
