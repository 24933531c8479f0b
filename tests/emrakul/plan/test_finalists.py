"""How many units of every layer may go, whichever they turn out to be."""

from __future__ import annotations

import numpy as np

from esper.emrakul.plan.finalists import removable
from esper.emrakul.plan.floors import floors
from esper.emrakul.plan.situation import Situation
from esper.leyline import Level
from tests.emrakul.networks import chain, measured
from tests.emrakul.plan.situations import HALF, allowance


def test_of_every_layer_so_many_may_go_as_its_floor_leaves_the_least_important_first() -> None:
    anatomy = chain([64, 48])
    situation, screen = Situation.whole(anatomy), measured(anatomy).screen
    units = removable(situation, screen, allowance(0.3), HALF)
    for group, floor in enumerate(floors(situation, HALF)):
        span = anatomy.unit_slice(group)
        own = units[(units >= span.start) & (units < span.stop)]
        assert own.size == anatomy.groups[group].width - floor
        others = np.setdiff1d(np.arange(span.start, span.stop), own)
        assert screen[own].max() <= screen[others].min()


def test_what_is_gone_unscreened_or_of_another_kind_may_not() -> None:
    anatomy = chain([64, 48], heads=4)
    situation, screen = Situation.whole(anatomy), measured(anatomy).screen.copy()
    screen[:60] = np.nan
    units = removable(situation, screen, allowance(0.3, levels=(Level.CHANNEL,)), HALF)
    assert not np.isin(units, np.arange(60)).any()
    assert (anatomy.group_of[units] < 2).all()
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[60:70] = False
    left = removable(situation.under(keep), screen, allowance(0.3), HALF)
    assert not np.isin(left, np.arange(60, 70)).any()
