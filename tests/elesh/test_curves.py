"""What a group costs at several widths, measured together and with its readers reconstructed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.anatomy.twin import Ablation, Twin
from esper.anatomy.units import anatomy_of
from esper.elesh.case import OpenCase
from esper.elesh.curves import Bench, Curve
from tests.elesh.cases import examples, network


def bench(model: nn.Module, *, reconstructs: bool = True) -> Bench:
    first, second, sample = (examples(64, seed) for seed in range(3))
    traced = trace(model.eval(), sample, F.cross_entropy)
    anatomy = anatomy_of(traced, model)
    state = {n: p.detach() for n, p in (*model.named_parameters(), *model.named_buffers())}
    opened = OpenCase(Twin.of(traced), anatomy, state, np.ones(anatomy.num_units, np.bool_))
    return Bench(opened, (first,), (second,), reconstructs)


def test_a_stretch_that_is_cheaper_than_the_one_before_shares_its_cost() -> None:
    curve = Curve(np.arange(8), np.array([1, 2, 4, 8]), np.array([0.3, 0.4, 0.4, 2.4]))
    assert curve.per_unit() == pytest.approx([0.1] * 4 + [0.5] * 4)


def test_units_whose_loss_was_no_number_cost_nothing_known() -> None:
    for losses, known in (
        ([0.1, 0.2, np.nan, 0.9], 2),
        ([0.1, np.nan, 0.3, 0.4], 1),
        ([np.inf, 0.2, 0.3, 0.4], 0),
    ):
        each = Curve(np.arange(8), np.array([1, 2, 4, 8]), np.array(losses)).per_unit()
        assert each[:known] == pytest.approx([0.1] * known)
        assert np.isnan(each[known:]).all()


def test_costs_per_unit_add_up_to_the_measured_loss_and_never_fall() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        counts = np.unique(random.integers(1, 40, 5))
        losses = random.normal(size=counts.size)
        each = Curve(np.arange(counts[-1]), counts, losses).per_unit()
        assert each.sum() == pytest.approx(losses[-1], abs=1e-5)
        assert (np.diff(each) >= -1e-12).all()


def test_the_loss_is_that_of_the_masked_network_with_its_readers_reconstructed() -> None:
    model = network()
    bed = bench(model)
    curve = bed.curve(0, 12)
    assert list(curve.counts) == [2, 3, 6, 12]
    keep = np.ones(48, np.bool_)
    keep[curve.units[:6]] = False
    state = bed.without(keep)
    x, y = bed.judged[0]
    with torch.no_grad():
        masked = F.cross_entropy(torch.func.functional_call(model, state, (x,)), y)
        measured = float(masked - F.cross_entropy(model(x), y))
    assert curve.losses[2] == pytest.approx(measured, abs=1e-5)
    assert not state["0.weight"][curve.units[:6]].any()
    assert not torch.equal(state["2.weight"], bed.opened.masked_state(keep)["2.weight"])


def test_without_reconstruction_units_are_ordered_by_exact_ablation() -> None:
    bed = bench(network(), reconstructs=False)
    curve = bed.curve(1, 8)
    ablation = Ablation(bed.opened.twin, bed.opened.anatomy, np.arange(24, 48))
    _, alone = ablation.losses(bed.opened.state, bed.judged[0])
    assert list(curve.units) == list(24 + np.argsort(alone.numpy(), kind="stable")[:8])
    keep = np.ones(48, np.bool_)
    keep[curve.units] = False
    masked = bed.opened.masked_state(keep)
    assert all(torch.equal(value, masked[name]) for name, value in bed.without(keep).items())


def test_a_network_without_a_known_reader_is_ordered_all_the_same() -> None:
    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 12), nn.Parameter(torch.randn(12, 4))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.first(x)) @ self.second

    torch.manual_seed(0)
    curve = bench(ByHand()).curve(0, 6)
    assert curve.units.size == 6
    assert np.isfinite(curve.losses).all()


def test_the_network_itself_is_never_written_to() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bench(model).curve(0, 12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_running_statistics_move_as_those_of_the_few_batches_move() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    state, x = model.eval().state_dict(), examples(64, 0)[0]

    def fed(tensors: Mapping[str, Tensor]) -> Tensor:
        own = {name: tensors[name] for name in ("0.weight", "0.bias", "2.weight", "2.bias")}
        result: Tensor = torch.func.functional_call(model[:3], own, (x,)).detach()
        return result

    before = fed(state)
    state["3.running_mean"].copy_(before.mean(0) + 0.3)
    state["3.running_var"].copy_(1.5 * before.var(0))
    bed = bench(model)
    keep = bed.opened.keep.copy()
    assert all(torch.equal(value, state[name]) for name, value in bed.without(keep).items() if name in state)
    keep[:5] = False
    after = bed.without(keep)
    now = fed(after)
    assert torch.allclose(after["3.running_mean"], now.mean(0) + 0.3, atol=1e-5)
    assert torch.allclose(after["3.running_var"], 1.5 * now.var(0), rtol=0.02)
