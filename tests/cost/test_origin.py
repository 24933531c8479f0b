from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given

from esper.anatomy import Anatomy
from esper.cost.origin import Origin
from esper.emrakul import Settings
from esper.emrakul.plan import Situation, floors
from esper.leyline import decode, encode
from tests.emrakul.networks import anatomies, chain, resnet8

TARGET = Settings.model_validate({"target": {"flops": 0.5}})
STAGED = Settings(staged=True)


def test_staged_floors_keep_eighty_per_cent_and_sixteen_channels() -> None:
    anatomy = chain([10, 18, 100])
    assert floors(Situation.whole(anatomy), STAGED).tolist() == [10, 16, 80]


def test_a_target_lowers_the_share_that_every_layer_keeps() -> None:
    anatomy = resnet8()
    assert floors(Situation.whole(anatomy), TARGET).tolist() == [8, 8, 16, 16, 32, 32]


def test_heads_keep_at_least_two() -> None:
    anatomy = chain([4], heads=6)
    assert floors(Situation.whole(anatomy), TARGET)[1] == 2


def test_floors_refer_to_the_original_width_also_after_a_cut() -> None:
    origin = Origin.of(chain([100]))
    assert floors(Situation.whole(chain([85]), origin), STAGED).tolist() == [80]


def test_fractions_refer_to_the_original_network() -> None:
    origin = Origin.of(chain([20, 20]))
    cut = chain([10, 10])
    everything = np.ones(cut.num_units, np.bool_)
    assert origin.removed_fraction(cut, everything, "flops") == pytest.approx(1 - cut.flops() / origin.flops)


@given(anatomies)
def test_an_origin_survives_json(anatomy: Anatomy) -> None:
    origin = Origin.of(anatomy)
    assert decode(Origin, json.loads(json.dumps(encode(origin)))) == origin
