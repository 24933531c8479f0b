"""The zoo: small networks of every kind of structure that the field uses, with inputs for them."""

from tests.anatomy.networks.attention import ATTENTION
from tests.anatomy.networks.case import Case
from tests.anatomy.networks.convolution import CONVOLUTION
from tests.anatomy.networks.pretrained import PRETRAINED
from tests.anatomy.networks.stateful import STATEFUL
from tests.anatomy.networks.unusual import UNUSUAL

ZOO: dict[str, Case] = {**CONVOLUTION, **ATTENTION, **PRETRAINED, **UNUSUAL, **STATEFUL}

__all__ = ["ATTENTION", "CONVOLUTION", "PRETRAINED", "STATEFUL", "UNUSUAL", "ZOO", "Case"]
