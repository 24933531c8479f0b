"""Whether masks that have proved themselves are worth a cut now, and which of them."""

from __future__ import annotations

import numpy as np

from esper.anatomy import Anatomy
from esper.arrays import BoolArray
from esper.cost import Origin
from esper.emrakul.plan.candidates import step_sizes
from esper.emrakul.settings import Settings


def worthwhile_cut(
    anatomy: Anatomy, keep: BoolArray, settings: Settings, origin: Origin | None = None
) -> BoolArray | None:
    """What to leave when cutting now: shape [units]; None if a cut would save too little.

    Of every group so many masked units go that a multiple of `round_to` is left, masked ones included; the
    rest stay masked until more have joined them.

    Args:
        anatomy: the network.
        keep: units that are not masked, shape [units].
        settings: `plan.round_to` and `cut`.
        origin: the uncut network; None if `anatomy` is it.
    """
    step = step_sizes(anatomy, settings.plan.round_to)
    kept = np.bincount(anatomy.group_of[keep], minlength=len(anatomy.groups))
    width = np.bincount(anatomy.group_of, minlength=len(anatomy.groups))
    going = width - np.minimum(-(-kept // step) * step, width)
    masked = np.flatnonzero(~keep)  # ascending, so sorted by group
    group = anatomy.group_of[masked]
    rank = np.arange(masked.size) - np.searchsorted(group, np.arange(len(anatomy.groups)))[group]
    left = np.ones(anatomy.num_units, np.bool_)
    left[masked[rank < going[group]]] = False
    model = (origin or Origin.of(anatomy)).model(anatomy, settings.cost)
    whole = model.total(np.ones_like(left))
    saved = 1 - model.total(left) / whole if whole else 0.0
    return left if not left.all() and saved >= settings.cut.min_saved_fraction else None
