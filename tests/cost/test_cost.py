from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.anatomy import Anatomy, Term
from esper.cost import CostModel
from tests.emrakul.networks import anatomies, chain, resnet8


@given(anatomies, st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_sparse_model_agrees_with_the_anatomy(anatomy: Anatomy, seed: int, share: float) -> None:
    keep = np.random.default_rng(seed).random(anatomy.num_units) >= share
    assert CostModel(anatomy, "flops").total(keep) == pytest.approx(anatomy.flops(keep))
    assert CostModel(anatomy, "parameters").total(keep) == pytest.approx(anatomy.parameters(keep))


@given(anatomies, st.integers(0, 2**32 - 1), st.sampled_from(["flops", "parameters"]))
def test_the_gradient_never_promises_less_than_units_save_together(
    anatomy: Anatomy, seed: int, cost: str
) -> None:
    random = np.random.default_rng(seed)
    model = CostModel(anatomy, "flops" if cost == "flops" else "parameters")
    keep = random.random(anatomy.num_units) >= 0.3
    gone = keep & (random.random(anatomy.num_units) < 0.3)
    saved = model.total(keep) - model.total(keep & ~gone)
    assert model.gradient(keep)[gone].sum() >= saved * (1 - 1e-9)


@pytest.mark.parametrize("cost", ["flops", "parameters"])
def test_the_gradient_of_one_unit_is_what_goes_with_it(cost: Literal["flops", "parameters"]) -> None:
    anatomy = chain([8, 12])  # no unit runs through one operator twice, so first order is exact
    model, keep = CostModel(anatomy, cost), np.ones(anatomy.num_units, np.bool_)
    gone = [np.arange(anatomy.num_units) != unit for unit in range(anatomy.num_units)]
    saved = [model.total(keep) - model.total(left) for left in gone]
    np.testing.assert_allclose(model.gradient(keep), saved)


def test_a_residual_network_costs_what_its_layers_cost() -> None:
    anatomy = resnet8()
    assert CostModel(anatomy, "flops").total(np.ones(anatomy.num_units, np.bool_)) == anatomy.flops()


def test_elements_of_activations_count_on_top_where_time_is_estimated() -> None:
    anatomy = chain([8, 12])
    wide = replace(anatomy, activations=(Term("conv", 100.0, (np.arange(8),)),))
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[:3] = False
    assert CostModel(wide, "flops", activation_flops=2.0).total(keep) == wide.flops(keep) + 2.0 * 100 * 5
    assert CostModel(wide, "flops").total(keep) == wide.flops(keep)
    assert CostModel(wide, "parameters", activation_flops=2.0).total(keep) == wide.parameters(keep)
