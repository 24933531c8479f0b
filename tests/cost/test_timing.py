"""A measured latency table: which operators are timed, at which widths, and that it adds up."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy import Anatomy
from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin
from esper.anatomy.units import anatomy_of
from esper.cost.latency import LatencyModel, LatencyTable
from esper.cost.timing import measure_latency, origin_of
from esper.emrakul import Settings


class Mixed(nn.Module):
    """A convolution, a depthwise one, one that nothing can be cut from, and linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=2)
        self.up = nn.Linear(32, 64, bias=False)
        self.down = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depthwise(F.relu(self.first(x))))
        x = F.relu(self.grouped(x)).mean((2, 3))
        out: Tensor = self.down(F.relu(self.up(x)))
        return out


SAMPLE = (torch.randn(4, 3, 12, 12), torch.tensor([0, 1, 2, 3]))


@cache
def timed() -> tuple[LatencyTable, Anatomy, Twin, nn.Module]:
    torch.manual_seed(0)
    model = Mixed()
    traced = trace(model, SAMPLE, F.cross_entropy)
    anatomy, twin = anatomy_of(traced, model), Twin.of(traced)
    return measure_latency(twin, anatomy, dict(model.state_dict()), SAMPLE, 16), anatomy, twin, model


def test_linear_maps_and_convolutions_are_timed_where_units_run_through_them() -> None:
    table, _, _, _ = timed()
    axes = {operator.node: operator.axes for operator in table.operators}
    shapes = {node: tuple(sorted(len(a.per_unit) for a in both)) for node, both in axes.items()}
    assert len(axes) == 4  # all but the grouped convolution
    assert sorted(shapes.values()) == [(0, 1), (0, 1), (0, 1), (1, 1)]
    assert (table.batch, table.device) == (16, "cpu")


def test_widths_are_eighths_in_whole_steps_and_times_are_positive() -> None:
    table, _, _, _ = timed()
    for operator in table.operators:
        for axis, widths in zip(operator.axes, operator.widths, strict=True):
            assert list(widths) == sorted(set(widths))
            assert len(widths) == (8 if axis.per_unit else 1)
        times = np.array(operator.milliseconds)
        assert times.shape == tuple(len(widths) for widths in operator.widths)
        assert (times > 0).all()


def test_at_full_width_the_parts_are_the_whole() -> None:
    table, anatomy, _, _ = timed()
    whole = np.ones(anatomy.num_units, np.bool_)
    model = LatencyModel(anatomy, table)
    alone = sum(operator.milliseconds[-1][-1] for operator in table.operators)
    parts = alone + table.rest_milliseconds + table.fixed_milliseconds
    assert model.total(whole) >= parts - 1e-9  # times that fall as a width grows are lifted
    half = whole.copy()
    half[::2] = False
    assert model.total(half) < model.total(whole)
    assert (model.gradient(whole) >= 0).all()


def test_only_a_target_in_time_is_timed() -> None:
    _, anatomy, twin, model = timed()
    state = dict(model.state_dict())
    assert origin_of(anatomy, twin, state, SAMPLE, Settings().timed_batch).latency is None
    asked = Settings.model_validate({"target": {"latency": 0.3, "latency_batch": 8}})
    origin = origin_of(anatomy, twin, state, SAMPLE, asked.timed_batch)
    assert origin.latency is not None
    assert origin.latency.batch == 8
    whole = np.ones(anatomy.num_units, np.bool_)
    assert origin.removed_fraction(anatomy, whole, "latency") == pytest.approx(0.0)
