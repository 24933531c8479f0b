"""The least that must stay of every group, and of the layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from esper.anatomy import Kind
from esper.arrays import IntArray
from esper.emrakul.plan.situation import Situation
from esper.emrakul.settings import Settings
from esper.leyline import Level


def floors(situation: Situation, settings: Settings) -> IntArray:
    """Fewest units that every group keeps: shape [groups].

    Channels: the larger of `min_keep_fraction` of the original width, and `min_channels` or, where that is
    less, `narrow_keep_fraction` of the width. Heads and experts: `min_heads`. Never
    fewer than the network needs (one, or as many experts as every token is sent to); a group that is
    narrower than its floor keeps what it has. A layer is a group of its own: see `layers_to_go`.
    """
    rules, groups = settings.floors, situation.anatomy.groups
    is_head = np.array([group.kind.level is Level.HEAD for group in groups], np.bool_)
    # Narrow groups may go below `min_channels`, down to a share of their own.
    narrow = np.minimum(rules.min_channels, _up(settings.narrow_keep_fraction * situation.widths))
    channels = np.maximum(narrow, _up(settings.min_keep_fraction * situation.widths))
    fewest = np.where(is_head, rules.min_heads, channels)
    fewest[[group.kind is Kind.LAYER for group in groups]] = 0
    return np.maximum(fewest, [group.least for group in groups]).astype(np.int64)


def layers_to_go(situation: Situation, settings: Settings) -> int:
    """How many layers this cycle may take: one, while the network keeps `min_layers` and their least share.

    One at a time, because every other one is measured with it in place.
    """
    rules, anatomy, keep = settings.floors, situation.anatomy, situation.keep
    count = int((anatomy.is_layer & keep & ~anatomy.inside_removed(keep)).sum())
    least = max(rules.min_layers, int(_up(rules.min_layers_fraction * situation.origin.layers)))
    return min(max(count - least, 0), 1)


def _up(values: Any) -> Any:
    return np.ceil(values - 1e-9)  # 0.8 * 10 must not become 9
