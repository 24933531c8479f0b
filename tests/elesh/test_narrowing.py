"""Layers measured as they get narrower: what goes together, in which order, and in how much time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.arrays import IntArray
from esper.batches import HeldOut
from esper.elesh.evidence import Tier
from esper.elesh.narrowing import Narrowed, narrow
from esper.errors import AnalysisError, AnalysisTimeout
from esper.workers import InlinePool, LocalPool, WorkerPool
from tests.elesh.cases import Saved, examples, saved
from tests.elesh.test_analyst import LossyPool, analyst

ALL: IntArray = np.arange(48)
ORDERS = [list(range(24)), list(range(24, 48))]
FIRST_LAYERS: IntArray = np.r_[0:16, 24:40]
"""Sixteen units of either layer: so many may go."""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Saved]:
    made = saved(tmp_path)
    yield made
    made.store.close()


class Copies(nn.Module):
    """Every unit of the first layer has a twin that does the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        same = F.relu(F.linear(x, self.first.weight, self.first.bias))
        logits: Tensor = self.second(same)
        return logits

    @classmethod
    def trained(cls) -> nn.Module:
        torch.manual_seed(0)
        model = cls()
        with torch.no_grad():
            model.first.weight[6:] = model.first.weight[:6]
            model.first.bias[6:] = model.first.bias[:6]
        return model


def narrowed(made: Saved, *, seconds: float = float("inf"), reconstruct: bool = True) -> list[Narrowed]:
    return narrow(made.case, [0, 1], [16, 16], ORDERS, reconstruct, seconds)


def test_costs_add_up_to_what_the_layer_costs_at_its_narrowest() -> None:
    changes = np.array([[0.1, -0.3], [0.4, -0.4], [0.3, -0.1]])
    one = Narrowed(np.array([7, 3, 5, 4]), np.array([1, 2, 4]), changes, 32)
    # 0.2, 0.4 and 0.2 on average: what is cheaper than what goes before it counts as the mean of both.
    assert one.costs == pytest.approx([0.05] * 4)
    assert (np.diff(one.costs) > 0).all()


def test_a_change_that_is_no_number_leaves_units_unmeasured_from_there_on() -> None:
    changes = np.array([[0.1, 0.1], [np.nan, 0.4]])
    costs = Narrowed(np.arange(4), np.array([2, 4]), changes, 32).costs
    assert np.isfinite(costs).tolist() == [True, True, False, False]


def test_units_go_together_up_to_as_many_as_may(made: Saved) -> None:
    for group, one in enumerate(narrowed(made)):
        assert one.counts.tolist() == [4, 8, 16]
        assert one.units.size == 16
        assert set(one.units) < set(range(24 * group, 24 * group + 24))
        assert one.changes.shape == (3, 2)  # four batches: readers learn from two, two judge
        assert one.samples == 32


def test_what_a_layer_costs_is_the_loss_of_the_masked_network(made: Saved) -> None:
    first = narrowed(made, reconstruct=False)[0]
    assert first.units.tolist() == ORDERS[0][:16]  # nothing is made up for, so the order is the one given
    state = {name: value.clone() for name, value in made.model.state_dict().items()}
    with torch.no_grad():
        for batch, change in zip(made.held_out.calibration[1::2], first.changes[0], strict=True):
            x, y = batch
            before = F.cross_entropy(made.model(x), y)
            for name in ("0.weight", "0.bias"):
                state[name][first.units[:4]] = 0.0
            state["2.weight"][:, first.units[:4]] = 0.0
            after = F.cross_entropy(torch.func.functional_call(made.model, state, (x,)), y)
            assert change == pytest.approx(float(after - before), abs=1e-5)


def test_one_of_two_copies_costs_nothing_and_both_do(tmp_path: Path) -> None:
    made = saved(tmp_path, build=Copies.trained, steps=0)
    one = narrow(made.case, [0], [12 - 2], [list(range(12))], True)[0]
    # Six can go without a loss, whichever of every pair; more cannot.
    first = one.units[:6]
    assert len({unit % 6 for unit in first.tolist()}) == 6
    cost = {int(count): float(np.abs(row).mean()) for count, row in zip(one.counts, one.changes, strict=True)}
    assert cost[3] < 1e-3
    assert cost[5] < 1e-3
    assert cost[10] > 20 * cost[5]
    made.store.close()


def test_what_must_stay_is_never_put_in_order(made: Saved) -> None:
    odd = list(range(1, 24, 2))
    one = narrow(made.case, [0], [6], [odd], True)[0]
    assert one.units.size == 6
    assert set(one.units) <= set(odd)


def test_without_time_one_layer_is_judged_at_two_points_on_one_batch(made: Saved) -> None:
    found = narrowed(made, seconds=0.0)
    assert len(found) == 1
    assert found[0].counts.tolist() == [7, 16]
    assert found[0].changes.shape == (2, 1)
    assert found[0].samples == 16


def test_evidence_is_the_same_in_this_process_and_in_a_worker(made: Saved, worker: LocalPool) -> None:
    def found(pool: WorkerPool) -> tuple[np.ndarray, np.ndarray]:
        evidence = replace(analyst(made, pool), together=True).analyze(FIRST_LAYERS, 600.0)
        return evidence.loss_increase, evidence.confidence

    here, there = found(InlinePool()), found(worker)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, other)


def test_evidence_is_of_as_many_units_of_a_layer_as_may_go(made: Saved) -> None:
    evidence = replace(analyst(made, LossyPool()), together=True).analyze(FIRST_LAYERS, 60.0)
    known = np.isfinite(evidence.loss_increase)
    assert known[:24].sum() == known[24:].sum() == 16
    assert (evidence.tiers[known] == Tier.ABLATION).all()
    assert (evidence.samples[known] == 32).all()
    assert np.isfinite(evidence.confidence[known]).all()
    assert (evidence.loss_increase[known] >= 0).all()
    assert not evidence.notes
    assert not evidence.is_partial


def test_the_layers_of_a_lost_task_stay_unmeasured_and_it_is_told(made: Saved) -> None:
    # The first task is the screen; then each of two workers has one layer.
    pool = LossyPool(lost=(1,), num_workers=2)
    evidence = replace(analyst(made, pool), together=True).analyze(FIRST_LAYERS, 60.0)
    known = np.isfinite(evidence.loss_increase)
    assert known.sum() == 16
    assert evidence.is_partial
    assert evidence.notes == ("1 of 1 layers were not measured: its process died.",)


def test_nothing_measured_is_an_error_and_never_evidence(made: Saved) -> None:
    lost = replace(analyst(made, LossyPool(lost=(1,))), together=True)
    with pytest.raises(AnalysisError, match="Not one of 2 layers was measured"):
        lost.analyze(FIRST_LAYERS, 60.0)
    hanging = replace(analyst(made, LossyPool(hanging=(1,))), together=True)
    with pytest.raises(AnalysisTimeout, match="Not one of 2 layers was measured"):
        hanging.analyze(FIRST_LAYERS, 60.0)


def test_a_single_batch_is_what_readers_learn_from_and_what_judges(tmp_path: Path) -> None:
    held_out = HeldOut((examples(16, 100),), (examples(40, 200),))
    made = saved(tmp_path, held_out=held_out)
    one = narrowed(made)[0]
    assert one.samples == 16
    assert np.isfinite(one.costs).all()
    made.store.close()
