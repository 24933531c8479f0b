"""A choice by the size of weights: reaches its target in whole units, and says that nothing was measured."""

from __future__ import annotations

import numpy as np
import pytest

from esper.emrakul.plan.by_magnitude import choose_by_magnitude
from esper.emrakul.plan.situation import alike
from esper.emrakul.settings import Settings, Target
from esper.errors import ConfigError
from tests.anatomy.cutting import anatomy_of
from tests.anatomy.networks import ZOO

PARAMETERS = dict(ZOO["gpt"].network().named_parameters())
ANATOMY = anatomy_of("gpt")
TARGET = Settings(target=Target(parameters=0.2))


def test_the_share_is_reached_and_only_just() -> None:
    choice = choose_by_magnitude(ANATOMY, PARAMETERS, TARGET)
    assert 0.2 <= choice.removed_fraction < 0.25
    assert "not measured" in choice.notes[0]


def test_units_that_may_not_go_stay() -> None:
    allowed = ANATOMY.group_of != 0
    choice = choose_by_magnitude(ANATOMY, PARAMETERS, TARGET, allowed=allowed)
    assert choice.keep[~allowed].all()
    assert not choice.keep.all()


def test_layers_that_are_alike_keep_equally_many() -> None:
    choice = choose_by_magnitude(ANATOMY, PARAMETERS, TARGET, homogeneous=True)
    assert choice.removed_fraction >= 0.2
    for groups in alike(ANATOMY):
        left = {int(choice.keep[ANATOMY.unit_slice(number)].sum()) for number in groups}
        assert len(left) == 1


def test_layers_with_a_unit_that_may_not_go_stay_whole_together() -> None:
    groups = max(alike(ANATOMY), key=len)
    assert len(groups) > 1
    allowed = np.ones(ANATOMY.num_units, np.bool_)
    allowed[ANATOMY.offsets[groups[0]]] = False
    choice = choose_by_magnitude(ANATOMY, PARAMETERS, TARGET, allowed=allowed, homogeneous=True)
    assert all(choice.keep[ANATOMY.unit_slice(number)].all() for number in groups)


def test_without_a_target_there_is_no_choice() -> None:
    with pytest.raises(ConfigError, match="needs a target"):
        choose_by_magnitude(ANATOMY, PARAMETERS, Settings())
