"""The least that must stay of every group, and of the layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from esper.anatomy import Kind
from esper.arrays import BoolArray, IntArray
from esper.emrakul.plan.candidates import lowest_counts
from esper.emrakul.plan.situation import Ranking, Situation
from esper.emrakul.settings import Settings, Target
from esper.leyline import Level

_CHOICE = 0.25
"""Share of what a target leaves that could go as well: floors just at the target would leave no choice."""

_LOWERED = (1.0, 0.75, 0.5, 0.35, 0.25, 0.125, 0.0)
"""Factors on floors that nobody has asked for; the first one that lets the target be reached holds."""


def floors(situation: Situation, settings: Settings) -> IntArray:
    """Fewest units that every group keeps: shape [groups].

    Channels: the larger of `min_keep_fraction` of the original width, and `min_channels` or, where that is
    less, `narrow_keep_fraction` of the width. What of these is unset is lowered where a target could not be
    reached otherwise, but not below two channels. Heads and experts: `min_heads`. Never fewer than the
    network needs (one, or as many experts as every token is sent to); a group that is narrower than its floor
    keeps what it has. A layer is a group of its own: see `layers_to_go`.
    """
    lowest = _floors(situation, settings, 1.0)
    if settings.target is None:
        return lowest
    target = settings.target
    enough = target.fraction + _CHOICE * (1 - target.fraction)
    for factor in _LOWERED:
        lowest = _floors(situation, settings, factor)
        if _reach(situation, settings, target, lowest) >= enough:
            break
    return lowest


def fewest_left(situation: Situation, settings: Settings) -> BoolArray:
    """What of `situation` is left when every group that may lose something is at its floor: bool [units].

    Of a target this is the most that can be removed at all. Layers that may go are counted as gone, more
    than `layers_to_go` lets.
    """
    keep = _at(situation, settings, floors(situation, settings))
    anatomy = situation.anatomy
    if Level.LAYER in settings.levels:
        keep &= ~(anatomy.is_layer & (True if situation.may_go is None else situation.may_go))
    return keep


def _floors(situation: Situation, settings: Settings, factor: float) -> IntArray:
    """The floors, with those that nobody has asked for times `factor`: shape [groups]."""
    rules, groups = settings.floors, situation.anatomy.groups
    is_head = np.array([group.kind.level is Level.HEAD for group in groups], np.bool_)

    def eased(name: str, value: float) -> float:
        return value if getattr(rules, name) is not None else factor * value

    # Narrow groups may go below `min_channels`, down to a share of their own.
    share = eased("narrow_keep_fraction", settings.narrow_keep_fraction)
    narrow = np.minimum(_up(eased("min_channels", settings.min_channels)), _up(share * situation.widths))
    wide = _up(eased("min_keep_fraction", settings.min_keep_fraction) * situation.widths)
    # One channel alone would be an axis that broadcasts, and no longer a group.
    channels = np.maximum(np.maximum(narrow, wide), np.minimum(situation.widths, 2))
    fewest = np.where(is_head, rules.min_heads, channels)
    fewest[[group.kind is Kind.LAYER for group in groups]] = 0
    lowest: IntArray = np.maximum(fewest, [group.least for group in groups]).astype(np.int64)
    return lowest


def _reach(situation: Situation, settings: Settings, target: Target, lowest: IntArray) -> float:
    """Share of the original cost that is gone when every group that may lose something is at its floor."""
    return situation.under(_at(situation, settings, lowest)).removed_fraction(target.cost)


def _at(situation: Situation, settings: Settings, lowest: IntArray) -> BoolArray:
    """What is left then: bool [units]."""
    anatomy, keep = situation.anatomy, situation.keep.copy()
    may_go = np.array([group.kind.level in settings.levels for group in anatomy.groups], np.bool_)
    ends = lowest_counts(anatomy, situation.counts, lowest, settings.plan.round_to)
    free = keep & ~anatomy.is_layer & (True if situation.may_go is None else situation.may_go)
    rows = Ranking.of(anatomy, np.flatnonzero(free))
    goes = rows.place < np.where(may_go, situation.counts - ends, 0)[rows.group]
    keep[rows.unit[goes]] = False
    return keep


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
