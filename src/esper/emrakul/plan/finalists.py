"""Which units are worth an exact ablation, judged by the screen."""

from __future__ import annotations

import numpy as np

from esper.anatomy import Anatomy, Kind
from esper.arrays import BoolArray, FloatArray, IntArray
from esper.cost import Origin
from esper.emrakul.plan.candidates import kinds_allowed, lowest_counts
from esper.emrakul.plan.ramp_end import bounds, odds
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings


def finalists(
    anatomy: Anatomy,
    keep: BoolArray,
    screen: FloatArray,
    allowance: Allowance,
    settings: Settings,
    *,
    origin: Origin | None = None,
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
        anatomy: the network.
        keep: units that are left, shape [units].
        screen: importance rank, 0 (least) to 1, NaN where unmeasured, shape [units].
        allowance: how much may go.
        settings: floors and factors.
        origin: the uncut network; None if `anatomy` is it.
        candidates: units that may be considered, shape [units]; None: all.
    """
    anatomy.check_mask(keep)
    origin = origin or Origin.of(anatomy)
    kept = np.bincount(anatomy.group_of[keep], minlength=len(anatomy.groups)).astype(np.int64)
    limits = bounds(anatomy, keep, screen, settings, origin)
    lowest = lowest_counts(anatomy, kept, limits.cycle_floors, limits.round_to)
    units = np.flatnonzero(keep & np.isfinite(screen) & kinds_allowed(anatomy, allowance))
    units = units if candidates is None else units[candidates[units]]
    units = units if limits.layers else units[~anatomy.is_layer[units]]
    group = anatomy.group_of[units]
    units = units[np.lexsort((units, screen[units], group))]
    group = anatomy.group_of[units]
    rank = np.arange(units.size) - np.searchsorted(group, np.arange(len(anatomy.groups)))[group]
    removable = kept - lowest
    factor = settings.plan.finalist_factor
    is_useful = rank < np.ceil(factor * removable)[group]
    units, group, rank = units[is_useful], group[is_useful], rank[is_useful]

    model = origin.model(anatomy, allowance.cost)
    saving = model.gradient(keep)[units]
    time = origin.model(anatomy, allowance.cost, activation_flops=settings.plan.activation_flops)
    gain = time.gradient(keep)[units]
    order = np.lexsort(
        (units, np.divide(odds(screen[units]), gain, out=np.full(units.size, np.inf), where=gain > 0))
    )
    wanted = factor * (model.total(keep) - (1 - allowance.goal_fraction) * origin.cost(allowance.cost))
    is_layer = anatomy.is_layer[units]  # of which one goes, if any: the others must be enough without
    counted = np.where((rank < removable[group]) & ~is_layer, saving, 0.0)[order]  # nothing beyond the floor
    is_enough = np.cumsum(counted) - counted >= wanted
    is_finalist = np.zeros(units.size, np.bool_)
    is_finalist[order[~is_enough]] = True
    is_finalist[order[~is_layer[order]][: settings.plan.min_finalists]] = True
    is_finalist |= is_layer | (rank < np.ceil(settings.plan.finalist_spread * removable)[group])
    ranked = order[is_finalist[order]][: settings.plan.max_finalists]
    return np.sort(_with_rivals(anatomy, keep, screen, units[ranked], settings))


def _with_rivals(
    anatomy: Anatomy, keep: BoolArray, screen: FloatArray, chosen: IntArray, settings: Settings
) -> IntArray:
    """The chosen and, where they are few, the least important others of each of their kinds.

    Those of the same layers come first. They cannot go, but a chosen unit is surely among the least only
    where there are others to compare it with, and confidence compares units of one kind.
    """
    enough = min(settings.plan.min_finalists, settings.plan.max_finalists)
    if not 0 < chosen.size < enough:
        return chosen
    is_rival = keep & np.isfinite(screen)
    is_rival[chosen] = False
    rivals, group = np.flatnonzero(is_rival), anatomy.group_of[is_rival]
    rivals = rivals[np.lexsort((rivals, screen[rivals], ~np.isin(group, anatomy.group_of[chosen])))]
    kinds = anatomy.kind_of
    beside = [
        rivals[kinds[rivals] == kind.value][: enough - int((kinds[chosen] == kind.value).sum())]
        for kind in Kind
        if kind is not Kind.LAYER and (kinds[chosen] == kind.value).any()
    ]
    return np.concatenate([chosen, *beside])[: settings.plan.max_finalists]
