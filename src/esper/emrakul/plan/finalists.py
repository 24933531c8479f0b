"""Which units are worth an exact ablation, judged by the screen."""

from __future__ import annotations

import numpy as np

from esper.anatomy import Kind
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.emrakul.plan.candidates import kinds_allowed, lowest_counts
from esper.emrakul.plan.ramp_end import bounds, odds
from esper.emrakul.plan.situation import Ranking, Situation
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import PlanSettings, Settings


def finalists(
    situation: Situation,
    screen: FloatArray,
    allowance: Allowance,
    settings: Settings,
    *,
    candidates: BoolArray | None = None,
) -> IntArray:
    """Units worth an exact ablation: enough to fill the allowance `finalist_factor` times, sorted by number.

    They are the units with the least screened importance per saved cost, and in every layer the least
    important share (`finalist_spread`) of what it may lose, because a screen compares layers less well than
    units of one layer; `min_finalists` in any case, because confidence compares finalists with each other;
    and every whole layer, if one may go. Nothing is chosen that could not go anyway: unscreened units, kinds
    that are not allowed, layers at their floor. Only where fewer than `min_finalists` can go, others of their
    kinds are ablated beside them.

    Args:
        situation: the network.
        screen: importance rank, 0 (least) to 1, NaN where unmeasured, shape [units].
        allowance: how much may go.
        settings: floors and factors.
        candidates: units that may be considered, shape [units]; None: all.
    """
    anatomy, keep, rules = situation.anatomy, situation.keep, settings.plan
    limits = bounds(situation, screen, settings)
    may_go = keep & np.isfinite(screen) & kinds_allowed(anatomy, allowance)
    may_go &= True if candidates is None else candidates
    may_go &= ~anatomy.is_layer | (limits.layers > 0)
    # Of every group so many of the least important as `finalist_factor` times what it may lose.
    rows = Ranking.of(anatomy, np.flatnonzero(may_go), screen)
    removable = situation.counts - lowest_counts(
        anatomy, situation.counts, limits.cycle_floors, limits.round_to
    )
    rows = rows.where(rows.place < np.ceil(rules.finalist_factor * removable)[rows.group])

    # In the order of importance per saved cost, as many as save enough together. Beyond the floor nothing
    # is saved, and of layers one goes at most: the others must be enough without.
    order = _by_worth(situation, rows, screen, allowance, rules)
    is_layer = anatomy.is_layer[rows.unit]
    model = situation.model(allowance.cost)
    counts = (rows.place < removable[rows.group]) & ~is_layer
    saved = np.where(counts, model.gradient(keep)[rows.unit], 0.0)[order]
    left_at_goal = (1 - allowance.goal_fraction) * situation.origin.cost(allowance.cost)
    wanted = rules.finalist_factor * (model.total(keep) - left_at_goal)
    is_finalist = is_layer | (rows.place < np.ceil(rules.finalist_spread * removable)[rows.group])
    # A row belongs to it as long as those before do not save enough.
    is_finalist[order[np.cumsum(saved) - saved < wanted]] = True
    is_finalist[order[~is_layer[order]][: rules.min_finalists]] = True
    chosen = rows.unit[order[is_finalist[order]][: rules.max_finalists]]
    return np.sort(_with_rivals(situation, screen, chosen, rules))


def _by_worth(
    situation: Situation, rows: Ranking, screen: FloatArray, allowance: Allowance, rules: PlanSettings
) -> IntArray:
    """Row numbers by importance per saved cost, least first: shape [rows]; last those that save nothing."""
    time = situation.model(allowance.cost, activation_flops=rules.activation_flops)
    gain = time.gradient(situation.keep)[rows.unit]
    worth = np.divide(odds(screen[rows.unit]), gain, out=np.full(gain.size, np.inf), where=gain > 0)
    return np.lexsort((rows.unit, worth))


def _with_rivals(situation: Situation, screen: FloatArray, chosen: IntArray, rules: PlanSettings) -> IntArray:
    """The chosen and, where they are few, the least important others of each of their kinds.

    Those of the same layers come first. They cannot go, but a chosen unit is surely among the least only
    where there are others to compare it with, and confidence compares units of one kind.
    """
    anatomy, enough = situation.anatomy, min(rules.min_finalists, rules.max_finalists)
    if not 0 < chosen.size < enough:
        return chosen
    is_rival = situation.keep & np.isfinite(screen)
    is_rival[chosen] = False
    rivals, group = np.flatnonzero(is_rival), anatomy.group_of[is_rival]
    # The last key counts first: own layers, then importance, then number.
    rivals = rivals[np.lexsort((rivals, screen[rivals], ~np.isin(group, anatomy.group_of[chosen])))]
    kinds = anatomy.kind_of
    beside = [
        rivals[kinds[rivals] == kind.value][: enough - int((kinds[chosen] == kind.value).sum())]
        for kind in Kind
        if kind is not Kind.LAYER and (kinds[chosen] == kind.value).any()
    ]
    return np.concatenate([chosen, *beside])[: rules.max_finalists]


def removable(situation: Situation, screen: FloatArray, allowance: Allowance, settings: Settings) -> IntArray:
    """Units that this cycle may remove from some group or other: of every group the least important, sorted.

    Args:
        situation: the network.
        screen: importance rank, 0 (least) to 1, NaN where unmeasured, shape [units].
        allowance: of which kinds.
        settings: floors.
    """
    anatomy = situation.anatomy
    limits = bounds(situation, screen, settings)
    may_go = situation.keep & np.isfinite(screen) & kinds_allowed(anatomy, allowance)
    may_go &= ~anatomy.is_layer | (limits.layers > 0)
    lowest = lowest_counts(anatomy, situation.counts, limits.cycle_floors, limits.round_to)
    rows = Ranking.of(anatomy, np.flatnonzero(may_go), screen)
    return np.sort(rows.unit[rows.place < (situation.counts - lowest)[rows.group]])
