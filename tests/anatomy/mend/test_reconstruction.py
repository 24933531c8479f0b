"""Readers of removed units make up for them as well as the units that stay allow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.anatomy.mend.reconstruction import Reconstruction
from esper.anatomy.structure import Anatomy
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of, masked_axes, zero_masked
from esper.arrays import BoolArray

Batch = tuple[Tensor, Tensor]


class Tied(nn.Module):
    """The hidden units are read by a layer whose weight is used a second time, turned around."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first(x))
        mixed: Tensor = self.second(hidden) @ self.second.weight
        return mixed


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 5))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    )


def batch(model: nn.Module, seed: int, count: int = 64) -> Batch:
    random = torch.Generator().manual_seed(seed)
    first = next(model.parameters())
    shape = (count, 3, 8, 8) if first.dim() == 4 else (count, 6)
    return torch.randn(shape, generator=random), torch.randint(0, 5, (count,), generator=random)


def known(model: nn.Module) -> tuple[Twin, Anatomy, dict[str, Tensor]]:
    traced = trace(model, batch(model, 0), F.cross_entropy)
    return Twin.of(traced), anatomy_of(traced, model), {n: p.detach() for n, p in model.named_parameters()}


def without(anatomy: Anatomy, group: int, *units: int) -> BoolArray:
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[anatomy.unit_slice(group).start + np.array(units)] = False
    return keep


def outputs(
    model: nn.Module, anatomy: Anatomy, keep: BoolArray, x: Tensor, changes: Mapping[str, Tensor]
) -> Tensor:
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, change in changes.items():
        state[name] += change
    zero_masked(state, masked_axes(anatomy, keep))
    result: Tensor = torch.func.functional_call(model, state, (x,))
    return result.detach()


@pytest.mark.parametrize("build", [dense, convolutional])
def test_units_go_almost_unnoticed_when_others_carry_the_same(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = build()
    first = next(m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    with torch.no_grad():  # units 0 and 1 double units 2 and 3, at another scale
        assert first.bias is not None
        first.weight[0:2], first.bias[0:2] = 3 * first.weight[2:4], 3 * first.bias[2:4]
    twin, anatomy, state = known(model)
    keep, whole = without(anatomy, 0, 0, 1), np.ones(anatomy.num_units, np.bool_)
    changes = Reconstruction(twin, anatomy, state, whole, [batch(model, 1)]).changes(keep)
    x = batch(model, 2)[0]
    lost = (outputs(model, anatomy, keep, x, {}) - model(x)).square().mean()
    left = (outputs(model, anatomy, keep, x, changes) - model(x)).square().mean()
    assert left < 0.01 * lost


@pytest.mark.parametrize("build", [dense, convolutional])
def test_a_reader_never_does_worse_on_the_batches_that_it_was_fitted_to(build: type[nn.Module]) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model = build()
        twin, anatomy, state = known(model)
        keep, whole = without(anatomy, len(anatomy.groups) - 1, 1, 5), np.ones(anatomy.num_units, np.bool_)
        seen = batch(model, 1)
        changes = Reconstruction(twin, anatomy, state, whole, [seen]).changes(keep)
        lost = (outputs(model, anatomy, keep, seen[0], {}) - model(seen[0])).square().mean()
        left = (outputs(model, anatomy, keep, seen[0], changes) - model(seen[0])).square().mean()
        assert left < lost


def test_nothing_is_added_where_the_mask_is() -> None:
    torch.manual_seed(0)
    model = convolutional()
    twin, anatomy, state = known(model)
    keep = without(anatomy, 0, 0, 3) & without(anatomy, 1, 2)
    whole = np.ones(anatomy.num_units, np.bool_)
    changes = Reconstruction(twin, anatomy, state, whole, [batch(model, 1)]).changes(keep)
    assert set(changes) == {"2.weight", "6.weight", "6.bias"}  # a padded border takes no constant
    for (name, axis), gone in masked_axes(anatomy, keep).items():
        if name in changes:
            assert not changes[name].index_select(axis, torch.from_numpy(gone)).any()


def test_what_is_masked_already_is_not_made_up_for_again() -> None:
    torch.manual_seed(0)
    model = dense()
    twin, anatomy, state = known(model)
    keep = without(anatomy, 0, 0, 3)
    assert Reconstruction(twin, anatomy, state, keep, [batch(model, 1)]).changes(keep) == {}


def test_a_weight_that_also_serves_elsewhere_is_left_alone() -> None:
    torch.manual_seed(0)
    model = Tied()
    x = torch.randn(8, 6)
    traced = trace(model, (x, torch.randn(8, 12)), F.mse_loss)
    anatomy = anatomy_of(traced, model)
    state = {name: p.detach() for name, p in model.named_parameters()}
    whole = np.ones(anatomy.num_units, np.bool_)
    for unit in range(anatomy.num_units):
        keep = whole.copy()
        keep[unit] = False
        found = Reconstruction(Twin.of(traced), anatomy, state, whole, [(x, torch.randn(8, 12))]).changes(
            keep
        )
        assert "second.weight" not in found


def test_a_unit_that_never_changes_goes_into_the_bias_of_its_reader() -> None:
    torch.manual_seed(0)
    model = dense()
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        parameters["0.weight"][4], parameters["0.bias"][4] = 0.0, 2.0
    twin, anatomy, state = known(model)
    keep, whole = without(anatomy, 0, 4), np.ones(anatomy.num_units, np.bool_)
    changes = Reconstruction(twin, anatomy, state, whole, [batch(model, 1)]).changes(keep)
    assert torch.allclose(changes["2.bias"], 2.0 * state["2.weight"][:, 4], atol=1e-5)
    x = batch(model, 2)[0]
    assert torch.allclose(outputs(model, anatomy, keep, x, changes), model(x), atol=1e-5)
