"""Whether masks that have proved themselves are worth a cut now, and which of them."""

from __future__ import annotations

import numpy as np

from esper.arrays import BoolArray
from esper.emrakul.plan.candidates import step_sizes
from esper.emrakul.plan.situation import Ranking, Situation
from esper.emrakul.settings import Settings


def worthwhile_cut(situation: Situation, settings: Settings, least: float) -> BoolArray | None:
    """What to leave when cutting now: shape [units]; None if a cut would save too little.

    Of every group so many masked units go that a multiple of `round_to` is left, masked ones included; the
    rest stay masked until more have joined them.

    Args:
        situation: the network and its masks.
        settings: `plan.round_to`, and what is counted.
        least: share of the network's cost that the cut must save.
    """
    anatomy = situation.anatomy
    step = step_sizes(anatomy, settings.plan.round_to)
    width = np.array([group.width for group in anatomy.groups], np.int64)
    # [groups]: what has to go to leave a multiple.
    going = width - np.minimum(-(-situation.counts // step) * step, width)
    masked = Ranking.of(anatomy, np.flatnonzero(~situation.keep))
    left = np.ones(anatomy.num_units, np.bool_)
    left[masked.unit[masked.place < going[masked.group]]] = False
    model = situation.model(settings.cost)
    whole = model.total(np.ones_like(left))
    saved = 1 - model.total(left) / whole if whole else 0.0
    return left if not left.all() and saved >= least else None
