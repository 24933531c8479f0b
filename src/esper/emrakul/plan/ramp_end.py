"""Where a ramp leads: widths that are multiples of `round_to`, planned before the first unit goes.

A step of a ramp is small; a multiple of 8 or 16 channels is not. So the end is planned first, from the
screen, and every step then takes any units it likes as long as no layer passes its final width.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.cost import Origin
from esper.elesh import Evidence
from esper.emrakul.plan.candidates import Bounds, candidate_blocks, step_sizes
from esper.emrakul.plan.floors import floors, layers_to_go
from esper.emrakul.plan.search import Search
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings


def bounds(
    anatomy: Anatomy, keep: BoolArray, screen: FloatArray, settings: Settings, origin: Origin
) -> Bounds:
    """The bounds of the next step.

    With a target and `round_to`, floors are the widths of the destination and steps need no rounding; the
    destination removes at least the target where floors allow it. Where too few units could still go there
    for confidence to tell them apart, the way round them is open as well: other layers, by whole multiples.
    Otherwise every step is rounded by itself.

    Args:
        anatomy: the network.
        keep: units that are left, shape [units].
        screen: importance rank, 0 (least) to 1, NaN where unmeasured, shape [units].
        settings: target, floors, rounding, what one cycle may take from a layer.
        origin: the uncut network.
    """
    lowest, rules, target = floors(anatomy, settings, origin), settings.plan, settings.target
    least = _least_after_this_cycle(anatomy, keep, settings, origin)
    layers = layers_to_go(anatomy, keep, settings, origin)
    if target is None:
        return Bounds(lowest, np.maximum(lowest, least), rules.round_to, None, layers)
    if rules.round_to == 1:
        return Bounds(lowest, np.maximum(lowest, least), 1, target.fraction, layers)
    whole = Allowance(target.cost, target.fraction, 1.0, settings.schedule.levels, "destination", "")
    everything = np.flatnonzero(keep)
    search = _search(anatomy, keep, screen, settings, origin, whole, everything)
    kept, widths = _widths(anatomy, keep), _widths(anatomy, search.keep)
    may_go = kept - widths
    if 0 < np.minimum(kept, np.ceil(rules.finalist_factor * may_go)).sum() < rules.min_finalists:
        is_ending = kept % step_sizes(anatomy, rules.round_to) > 0
        others = everything[((may_go == 0) | is_ending)[anatomy.group_of[everything]]]
        way_round = _search(anatomy, keep, screen, settings, origin, whole, others)
        widths = np.minimum(widths, _widths(anatomy, way_round.keep))
    widths[anatomy.group_of[anatomy.is_layer]] = 0  # a screen says too little to plan them ahead
    end = max(search.removed_fraction(), target.fraction)
    return Bounds(widths, np.maximum(widths, least), 1, end, layers)


def _search(
    anatomy: Anatomy,
    keep: BoolArray,
    screen: FloatArray,
    settings: Settings,
    origin: Origin,
    whole: Allowance,
    units: IntArray,
) -> Search:
    """The way to the end of the ramp by whole multiples of these units, once it has been gone."""
    lowest, rules = floors(anatomy, settings, origin), settings.plan
    blocks, _ = candidate_blocks(
        anatomy,
        keep,
        _as_evidence(anatomy, screen),
        units,
        whole,
        Bounds(lowest, lowest, rules.round_to, whole.goal_fraction),
        0.0,
    )
    search = Search(
        origin.model(anatomy, whole.cost),
        origin.model(anatomy, whole.cost, activation_flops=rules.activation_flops),
        blocks,
        origin.cost(whole.cost),
        limit_fraction=1.0,
        allowed_loss=np.inf,
        margin=1.0,
        keep=keep.copy(),
        is_layer=anatomy.is_layer,
    )
    step = step_sizes(anatomy, rules.round_to)
    search.take(np.flatnonzero(blocks.sizes < step[blocks.group]))  # what was begun is ended first
    search.run(search.removed_fraction(), whole.goal_fraction)
    return search


def _widths(anatomy: Anatomy, keep: BoolArray) -> IntArray:
    counted: IntArray = np.bincount(anatomy.group_of[keep], minlength=len(anatomy.groups)).astype(np.int64)
    return counted


def _least_after_this_cycle(
    anatomy: Anatomy, keep: BoolArray, settings: Settings, origin: Origin
) -> IntArray:
    """Fewest units that one cycle may leave in every group, by `max_layer_fraction`: shape [groups]."""
    kept = _widths(anatomy, keep)
    share = settings.plan.max_layer_fraction
    if share is None:
        return np.zeros_like(kept)
    width = [origin.widths.get(group.name, group.width) for group in anatomy.groups]
    least: IntArray = kept - np.maximum(np.floor(share * np.array(width) + 1e-9).astype(np.int64), 1)
    return least


def odds(screen: FloatArray) -> FloatArray:
    """Ranks are even, importances have a long tail: odds restore it."""
    restored: FloatArray = screen / np.maximum(1 - screen, 1e-6)
    return restored


def _as_evidence(anatomy: Anatomy, screen: FloatArray) -> Evidence:
    """The screen in the place of losses: good enough to compare widths, never to cut by."""
    unknown = Evidence.unmeasured(anatomy.digest, anatomy.num_units)
    sure = np.where(np.isfinite(screen), 1.0, np.nan)
    return replace(unknown, screen=screen, loss_increase=odds(screen), confidence=sure)
