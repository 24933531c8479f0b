"""The least that must stay of every group, and of the layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from esper.anatomy import Anatomy, Kind
from esper.arrays import BoolArray, IntArray
from esper.cost import Origin
from esper.emrakul.settings import Settings


def floors(anatomy: Anatomy, settings: Settings, origin: Origin) -> IntArray:
    """Fewest units that every group keeps: shape [groups].

    Channels: the larger of `min_keep_fraction` of the original width, and `min_channels` or, where that is
    less, `narrow_keep_fraction` of the width. Heads and experts: `min_heads`. Never
    fewer than the network needs (one, or as many experts as every token is sent to); a group that is
    narrower than its floor keeps what it has. A layer is a group of its own: see `layers_to_go`.
    """
    rules = settings.floors
    width = np.array([origin.widths.get(group.name, group.width) for group in anatomy.groups], np.float64)
    is_head = np.array([group.kind.level == Kind.HEAD for group in anatomy.groups], np.bool_)
    least = np.array([group.least for group in anatomy.groups], np.int64)
    narrow = np.minimum(rules.min_channels, _up(settings.narrow_keep_fraction * width))
    channels = np.maximum(narrow, _up(settings.min_keep_fraction * width))
    fewest = np.where(is_head, rules.min_heads, channels)
    fewest[[group.kind is Kind.LAYER for group in anatomy.groups]] = 0
    return np.maximum(fewest, least).astype(np.int64)


def layers_to_go(anatomy: Anatomy, keep: BoolArray, settings: Settings, origin: Origin) -> int:
    """How many layers this cycle may take: one, while the network keeps `min_layers` and their least share.

    One at a time, because every other one is measured with it in place.
    """
    rules, left = settings.floors, int((anatomy.is_layer & keep & ~anatomy.inside_removed(keep)).sum())
    least = max(rules.min_layers, int(_up(np.array([rules.min_layers_fraction * origin.layers]))[0]))
    return min(max(left - least, 0), 1)


def _up(values: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.ceil(values - 1e-9)  # 0.8 * 10 must not become 9
