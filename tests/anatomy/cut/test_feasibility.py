"""Groups that a network's own code cannot do without are found on a copy."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from esper.anatomy.cut.feasibility import refused_groups
from esper.anatomy.proof import Inputs
from esper.anatomy.units import inspect
from esper.errors import SurgeryError


class Fixed(nn.Module):
    """Two layers of which the first must keep its width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x)).view(-1, 8)
        out: Tensor = self.third(torch.relu(self.second(hidden)))
        return out


def test_only_the_culprit_is_refused_and_nothing_is_touched() -> None:
    torch.manual_seed(0)
    model, x = Fixed(), torch.randn(4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    refused = refused_groups(model, inspect(model, x), Inputs((x,)))
    assert refused.keys() == {"first"}
    assert "does not run at the new sizes" in refused["first"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (model.first.out_features, model.second.in_features) == (8, 8)


def test_a_network_without_fixed_sizes_refuses_nothing() -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 4)
    assert refused_groups(model, inspect(model, x), Inputs((x,))) == {}


def test_a_network_without_units_refuses_nothing() -> None:
    model, x = nn.Linear(4, 8), torch.randn(4, 4)
    assert refused_groups(model, inspect(model, x), Inputs((x,))) == {}


def test_a_network_that_cannot_be_copied_is_named() -> None:
    model, x = Fixed(), torch.randn(4, 4)
    anatomy = inspect(model, x)
    model.lock = threading.Lock()  # type: ignore[assignment]  # what users do
    with pytest.raises(SurgeryError, match="Fixed cannot be copied"):
        refused_groups(model, anatomy, Inputs((x,)))
