"""Whole layers: how many may go, one at a time, and what that means for what lies in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from esper.anatomy import Anatomy
from esper.arrays import BoolArray, FloatArray
from esper.cost import CostModel, Origin
from esper.elesh import Evidence
from esper.emrakul.plan import Plan, Rejection, Situation, finalists, floors, layers_to_go, make_plan
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings
from esper.leyline import Level, decode, encode
from tests.emrakul.networks import chain, layered, measured

LEVELS = (Level.CHANNEL, Level.LAYER)
SETTINGS = Settings.model_validate(
    {"target": {"flops": 0.5}, "schedule": {"levels": LEVELS}, "floors": {"min_layers": 1}}
)
NETWORK = layered(chain([8] * 9), [f"conv{n}" for n in range(2, 8)])


def everything(anatomy: Anatomy = NETWORK) -> BoolArray:
    return np.ones(anatomy.num_units, np.bool_)


def without(*layers: str) -> BoolArray:
    keep = everything()
    for layer in layers:
        keep[NETWORK.unit_slice(NETWORK.group_named(f"layer:{layer}"))] = False
    return keep


def situation(keep: BoolArray) -> Situation:
    return Situation.whole(NETWORK).under(keep)


def evidence(losses: FloatArray) -> Evidence:
    """All measured and all sure."""
    return replace(measured(NETWORK), loss_increase=losses, confidence=np.ones(NETWORK.num_units))


def plan(losses: FloatArray, keep: BoolArray | None = None, settings: Settings = SETTINGS) -> Plan:
    allowed = Allowance("flops", 0.3, 0.35, LEVELS, "ramp", "because a test says so")
    return make_plan(situation(everything() if keep is None else keep), evidence(losses), allowed, settings)


def cheap(*layers: str) -> FloatArray:
    """Nothing costs little but these layers."""
    losses = np.ones(NETWORK.num_units)
    for number, layer in enumerate(layers):
        losses[NETWORK.offsets[NETWORK.group_named(f"layer:{layer}")]] = 1e-6 * (1 + number)
    return losses


@pytest.mark.parametrize("cost", ["flops", "parameters"])
def test_costs_under_any_mask_are_those_of_the_anatomy(cost: str) -> None:
    keep = without("conv3", "conv6")
    keep[NETWORK.unit_slice(NETWORK.group_named("conv3"))][:3] = False
    keep[NETWORK.unit_slice(NETWORK.group_named("conv4"))][2:5] = False
    model = CostModel(NETWORK, "flops" if cost == "flops" else "parameters")
    expected = NETWORK.flops(keep) if cost == "flops" else NETWORK.parameters(keep)
    assert model.total(keep) == pytest.approx(expected)
    inside = NETWORK.unit_slice(NETWORK.group_named("conv3"))
    assert model.gradient(everything())[NETWORK.is_layer].min() > model.gradient(everything())[inside].max()


def test_the_network_keeps_its_share_of_layers_counted_from_the_beginning() -> None:
    origin = Origin.of(NETWORK)
    assert origin.layers == 6
    assert decode(Origin, encode(origin)) == origin
    assert layers_to_go(situation(everything()), SETTINGS) == 1  # of 6, 5 must stay
    assert layers_to_go(situation(without("conv2")), SETTINGS) == 0
    bold = SETTINGS.model_copy(
        update={"floors": SETTINGS.floors.model_copy(update={"min_layers_fraction": 0.0, "min_layers": 3})}
    )
    assert layers_to_go(situation(without("conv2")), bold) == 1
    assert layers_to_go(situation(without("conv2", "conv3", "conv4")), bold) == 0
    assert not floors(situation(everything()), SETTINGS)[NETWORK.group_of[NETWORK.is_layer]].any()


def test_a_plan_takes_the_cheapest_layer_and_no_second_one() -> None:
    made = plan(cheap("conv5", "conv3"))
    layers = made.units[NETWORK.is_layer[made.units]]
    assert [NETWORK.unit_id(int(unit)) for unit in layers] == ["layer:conv5#0"]
    assert made.level is Level.LAYER
    refused = {NETWORK.unit_id(int(unit)) for unit in made.rejected[Rejection.LAYERS]}
    assert "layer:conv3#0" in refused


def test_nothing_is_taken_that_has_gone_with_its_layer() -> None:
    losses = cheap("conv5")
    inside = NETWORK.unit_slice(NETWORK.group_named("conv5"))
    losses[inside] = 1e-3  # cheaper than all others, and worth nothing without its layer
    keep = without("conv5")
    made = plan(losses, keep)
    gone = keep.copy()
    gone[made.units] = False
    assert made.units.size
    assert NETWORK.flops(gone) < NETWORK.flops(keep)
    assert not NETWORK.is_layer[made.units].any()


def test_every_layer_is_a_finalist_while_one_may_go_and_none_afterwards() -> None:
    screen = np.linspace(0, 1, NETWORK.num_units)  # layers come last: the most important ones
    allowed = Allowance("flops", 0.1, 0.12, LEVELS, "ramp", "because a test says so")
    chosen = finalists(situation(everything()), screen, allowed, SETTINGS)
    assert NETWORK.is_layer[chosen].sum() == 6
    others = finalists(situation(without("conv5")), screen, allowed, SETTINGS)
    assert not NETWORK.is_layer[others].any()
    assert others.size


def test_a_latency_target_knows_no_layers() -> None:
    with pytest.raises(ValidationError, match="knows no whole layers"):
        Settings.model_validate({"target": {"latency": 0.3}, "schedule": {"levels": ["channel", "layer"]}})


def test_levels_are_those_of_the_target_or_of_all_stages() -> None:
    assert SETTINGS.levels == {Level.CHANNEL, Level.LAYER}
    assert Settings(staged=True).levels == {Level.CHANNEL, Level.HEAD, Level.LAYER}
    assert Settings().levels == frozenset()
