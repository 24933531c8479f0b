"""Tier 2 as tasks: the same in a worker as here, on a real checkpoint, and blind to what is masked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from esper.elesh.second_tier import UnitFindings, find_blocks, find_heads, find_magnitudes, find_units
from esper.workers import LocalPool, WorkerTask
from tests.elesh.cases import network, saved


def twins_inside() -> nn.Module:
    """Units 5 and 6 of the first layer start as the same unit, and Adam keeps them so."""
    model = network()
    assert isinstance(model, nn.Sequential)
    first, second = model[0], model[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    with torch.no_grad():
        first.weight[6], first.bias[6] = first.weight[5], first.bias[5]
        second.weight[:, 6] = second.weight[:, 5]
    return model


def test_a_unit_that_is_there_twice_costs_nothing_when_the_other_stands_in(tmp_path: Path) -> None:
    made = saved(tmp_path, build=twins_inside)
    found = find_units(made.case, [0, 1], 1e-3, 0.95)
    leaders = dict(zip(found.units.tolist(), found.leaders.tolist(), strict=True))
    assert {leaders[5], leaders[6]} in ({-1, 5}, {-1, 6})
    follower = 5 if leaders[6] == -1 else 6
    row = found.folded_rises[found.folded.tolist().index(follower)]
    assert row.shape == (len(made.held_out.calibration),)
    assert row == pytest.approx(0.0, abs=1e-5)
    assert found.taylor[follower] > 0


def same(one: UnitFindings, other: UnitFindings) -> bool:
    return all(
        np.array_equal(a, b, equal_nan=True)
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def test_every_task_says_the_same_in_a_worker_as_here(tmp_path: Path, worker: LocalPool) -> None:
    made = saved(tmp_path, build=twins_inside)
    asked = {"case": made.case, "groups": [0, 1], "activation_threshold": 1e-3, "redundancy_threshold": 0.95}
    units = worker.submit(WorkerTask(find_units, asked)).outcome()
    sizes = worker.submit(WorkerTask(find_magnitudes, {"case": made.case})).outcome()
    heads = worker.submit(WorkerTask(find_heads, {"case": made.case})).outcome()
    blocks = worker.submit(WorkerTask(find_blocks, {"case": made.case})).outcome()
    assert [o.message for o in (units, sizes, heads, blocks)] == [""] * 4
    assert same(units.value, find_units(made.case, [0, 1], 1e-3, 0.95))
    assert np.array_equal(sizes.value, find_magnitudes(made.case))
    assert heads.value == []
    assert blocks.value == []


def test_masked_units_lead_and_follow_nobody(tmp_path: Path) -> None:
    made = saved(tmp_path, build=twins_inside)
    found = find_units(replace(made.case, masked=(5,)), [0], 1e-3, 0.95)
    assert found.leaders[6] != 5
    assert found.leaders[5] == -1
    assert found.taylor[5] == 0.0
