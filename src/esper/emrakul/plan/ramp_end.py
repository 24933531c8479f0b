"""Plans the widths at the end of a ramp: multiples of `round_to`, known before the first unit goes.

A step of a ramp is small; a multiple of 8 or 16 channels is not. So the end is planned first, from the
screen, and every step then takes any units it likes as long as no layer passes its final width.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from esper.arrays import FloatArray, IntArray
from esper.elesh import Evidence
from esper.emrakul.plan.candidates import Bounds, candidate_blocks, step_sizes
from esper.emrakul.plan.floors import floors, layers_to_go
from esper.emrakul.plan.search import Search
from esper.emrakul.plan.situation import Situation
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings, Target


def bounds(situation: Situation, screen: FloatArray, settings: Settings) -> Bounds:
    """The bounds of the next step.

    With a target and `round_to`, floors are the widths at the end of the ramp and steps need no rounding; the
    end removes at least the target where floors allow it. Where too few units could still go there
    for confidence to tell them apart, the way round them is open as well: other layers, by whole multiples.
    Otherwise every step is rounded by itself.

    Args:
        situation: the network.
        screen: importance rank, 0 (least) to 1, NaN where unmeasured, shape [units].
        settings: target, floors, rounding, what one cycle may take from a layer.
    """
    rules, target = settings.plan, settings.target
    lowest, layers = floors(situation, settings), layers_to_go(situation, settings)
    least = _least_after_this_cycle(situation, rules.max_layer_fraction)
    if target is None:
        return Bounds(
            lowest, np.maximum(lowest, least), rules.round_to, None, layers, bool(rules.configurable)
        )
    if rules.round_to == 1:
        return Bounds(lowest, np.maximum(lowest, least), 1, target.fraction, layers, bool(rules.configurable))
    anatomy, kept, everything = situation.anatomy, situation.counts, np.flatnonzero(situation.keep)
    search = _search(situation, screen, settings, target, everything)
    widths = anatomy.counts(search.keep)
    may_go = kept - widths
    if 0 < np.minimum(kept, np.ceil(rules.finalist_factor * may_go)).sum() < rules.min_finalists:
        is_ending = kept % step_sizes(anatomy, rules.round_to) > 0
        others = everything[((may_go == 0) | is_ending)[anatomy.group_of[everything]]]
        way_round = _search(situation, screen, settings, target, others)
        widths = np.minimum(widths, anatomy.counts(way_round.keep))
    widths[anatomy.group_of[anatomy.is_layer]] = 0  # a screen says too little to plan them ahead
    end = max(search.removed_fraction(), target.fraction)
    return Bounds(widths, np.maximum(widths, least), 1, end, layers, bool(rules.configurable))


def _search(
    situation: Situation, screen: FloatArray, settings: Settings, target: Target, units: IntArray
) -> Search:
    """The way to the end of the ramp by whole multiples of these units, once it has been gone."""
    lowest, round_to = floors(situation, settings), settings.plan.round_to
    whole = Allowance.at_once(target, settings.schedule.levels)
    limits = Bounds(lowest, lowest, round_to, target.fraction, same_width=bool(settings.plan.configurable))
    evidence = _as_evidence(situation, screen)
    blocks, _ = candidate_blocks(situation, evidence, units, evidence.loss_increase, whole, limits, 0.0)
    search = Search(situation, blocks, target.cost, settings.plan.activation_flops)
    step = step_sizes(situation.anatomy, round_to)
    search.take(np.flatnonzero(blocks.sizes < step[blocks.group]))  # what was begun is ended first
    search.run(target.fraction)
    return search


def _least_after_this_cycle(situation: Situation, share: float | None) -> IntArray:
    """Fewest units that one cycle may leave in every group, by `max_layer_fraction`: shape [groups]."""
    if share is None:
        return np.zeros_like(situation.counts)
    # One unit at least, or a narrow group could never lose any.
    most = np.maximum(np.floor(share * situation.widths + 1e-9).astype(np.int64), 1)
    least: IntArray = situation.counts - most
    return least


def odds(screen: FloatArray) -> FloatArray:
    """Ranks are even, importances have a long tail: odds restore it."""
    restored: FloatArray = screen / np.maximum(1 - screen, 1e-6)
    return restored


def _as_evidence(situation: Situation, screen: FloatArray) -> Evidence:
    """The screen in the place of losses: good enough to compare widths, never to cut by."""
    unknown = Evidence.unmeasured(situation.anatomy.digest, situation.anatomy.num_units)
    sure = np.where(np.isfinite(screen), 1.0, np.nan)
    return replace(unknown, screen=screen, loss_increase=odds(screen), confidence=sure)
