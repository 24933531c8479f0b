"""What the network was before anything was removed: fractions and floors refer to it, also after cuts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from esper.anatomy.structure import Anatomy, BoolArray, IntArray, Kind
from esper.emrakul.settings import CostName, Settings


@dataclass(frozen=True)
class Origin:
    """Cost and widths of the uncut network; keep it from the first anatomy on and store it with the run."""

    flops: float
    parameters: int
    widths: Mapping[str, int]
    """Units of every group, by the group's name."""

    @classmethod
    def of(cls, anatomy: Anatomy) -> Origin:
        return cls(
            anatomy.flops(), anatomy.parameters(), {group.name: group.width for group in anatomy.groups}
        )

    def cost(self, name: CostName) -> float:
        return self.flops if name == "flops" else float(self.parameters)

    def removed_fraction(self, anatomy: Anatomy, keep: BoolArray, name: CostName) -> float:
        """Share of the original cost that is gone when only `keep` of `anatomy` is left: shape [units]."""
        mask = None if keep.all() else keep
        left = anatomy.flops(mask) if name == "flops" else float(anatomy.parameters(mask))
        whole = self.cost(name)
        return 1 - left / whole if whole else 0.0  # what never cost anything has nothing to lose

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Origin:
        return cls(data["flops"], data["parameters"], dict(data["widths"]))


def floors(anatomy: Anatomy, settings: Settings, origin: Origin) -> IntArray:
    """Fewest units that every group keeps: shape [groups].

    Channels: the larger of `min_keep_fraction` of the original width, and `min_channels` or, where that is
    less, `narrow_keep_fraction` of the width. Heads: `min_heads`. Never fewer than one; a group that is
    narrower than its floor keeps what it has.
    """
    rules = settings.floors
    width = np.array([origin.widths.get(group.name, group.width) for group in anatomy.groups], np.float64)
    is_head = np.array([group.kind is Kind.HEAD for group in anatomy.groups], np.bool_)
    narrow = np.minimum(rules.min_channels, _up(settings.narrow_keep_fraction * width))
    channels = np.maximum(narrow, _up(settings.min_keep_fraction * width))
    return np.maximum(np.where(is_head, rules.min_heads, channels), 1).astype(np.int64)


def _up(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.ceil(values - 1e-9)  # 0.8 * 10 must not become 9
