"""What the network was before anything was removed: shares and floors refer to it, also after cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray
from esper.cost.cost import CostModel, CostName, Costs
from esper.cost.latency import LatencyModel, LatencyTable
from esper.errors import ConfigError


@dataclass(frozen=True)
class Origin:
    """Cost and widths of the uncut network; keep it from the first anatomy on and store it with the run."""

    flops: float
    parameters: int
    widths: Mapping[str, int]
    """Units of every group, by the group's name."""
    latency: LatencyTable | None = None
    """What it takes in time; None where nobody has measured it."""
    milliseconds: float = 0.0
    """What the uncut network takes by that table."""
    layers: int = 0
    """How many whole layers could go one by one; 0 where nobody asked for layers."""

    @classmethod
    def of(cls, anatomy: Anatomy, latency: LatencyTable | None = None) -> Origin:
        widths = {group.name: group.width for group in anatomy.groups}
        whole = np.ones(anatomy.num_units, np.bool_)
        milliseconds = 0.0 if latency is None else LatencyModel(anatomy, latency).total(whole)
        layers = int(anatomy.is_layer.sum())
        return cls(anatomy.flops(), anatomy.parameters(), widths, latency, milliseconds, layers)

    def cost(self, name: CostName) -> float:
        if name == "latency":
            return self.milliseconds
        return self.flops if name == "flops" else float(self.parameters)

    def model(self, anatomy: Anatomy, name: CostName, *, activation_flops: float = 0.0) -> Costs:
        """What `anatomy` (the network as it is now) costs under any mask; see `CostModel`.

        Raises:
            ConfigError: latency is asked for and was not measured.
        """
        if name != "latency":
            return CostModel(anatomy, name, activation_flops=activation_flops)
        if self.latency is None:
            raise ConfigError(
                "Nobody has measured what this network takes in time, so it cannot be cut by latency here. "
                "Set the latency target of a session (`esper.attach` measures), or use flops."
            )
        return LatencyModel(anatomy, self.latency)

    def removed_fraction(self, anatomy: Anatomy, keep: BoolArray, name: CostName) -> float:
        """Share of the original cost that is gone when only `keep` of `anatomy` is left: shape [units]."""
        mask = None if keep.all() else keep
        if name == "latency":
            left = self.model(anatomy, name).total(keep)
        else:
            left = anatomy.flops(mask) if name == "flops" else float(anatomy.parameters(mask))
        whole = self.cost(name)
        return 1 - left / whole if whole else 0.0  # what never cost anything has nothing to lose
