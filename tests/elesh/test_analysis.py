"""Tasks of the analysis, held against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.units import masked_axes, zero_masked
from esper.batches import HeldOut
from esper.elesh.analysis import ablate, confidence, measure
from esper.errors import EvidenceError
from esper.workers import LocalPool, WorkerTask
from tests.elesh.cases import examples, saved


def test_ablation_is_the_loss_without_the_unit_minus_the_loss_with_it(tmp_path: Path) -> None:
    made = saved(tmp_path, masked=(2,))
    units = [0, 9, 24, 47]
    found = ablate(made.case, units).rises
    for unit, row in zip(units, found, strict=True):
        for batch, rise in zip(made.held_out.calibration, row, strict=True):
            losses = []
            for gone in ([2], [2, unit]):
                keep = np.ones(made.anatomy.num_units, np.bool_)
                keep[gone] = False
                parameters = {name: p.detach().clone() for name, p in made.model.named_parameters()}
                zero_masked(parameters, masked_axes(made.anatomy, keep))
                out = torch.func.functional_call(made.model, parameters, (batch[0],))
                losses.append(float(F.cross_entropy(out, batch[1])))
            assert rise == pytest.approx(losses[1] - losses[0], abs=1e-6)
    assert any(abs(rise) > 1e-3 for row in found for rise in row)


def test_ablation_is_the_same_in_every_process(tmp_path: Path, worker: LocalPool) -> None:
    made = saved(tmp_path)
    asked = {"case": made.case, "units": list(range(0, 48, 5))}
    outcomes = [worker.submit(WorkerTask(ablate, asked)).outcome() for _ in range(2)]
    here = ablate(made.case, list(range(0, 48, 5)))
    assert [outcome.message for outcome in outcomes] == ["", ""]
    for outcome in outcomes:
        assert np.array_equal(outcome.value.rises, here.rises)


def test_measuring_gives_correctness_per_sample_and_the_mean_loss(tmp_path: Path) -> None:
    made = saved(tmp_path)
    keep = [True] * made.anatomy.num_units
    quality = measure(made.case, keep, keep)
    x = torch.cat([x for x, _ in made.held_out.validation])
    y = torch.cat([y for _, y in made.held_out.validation])
    assert quality.correctness is not None
    assert quality.losses is not None
    assert quality.correctness.tolist() == (made.model(x).argmax(1) == y).double().tolist()
    assert quality.loss == pytest.approx(float(F.cross_entropy(made.model(x), y).detach()), abs=1e-6)
    assert quality.peak_bytes is not None
    assert quality.peak_bytes > 1 << 20
    first = made.held_out.validation[0]
    made.model.zero_grad()
    F.cross_entropy(made.model(first[0]), first[1]).backward()
    gradients = torch.cat([p.grad.ravel() for p in made.model.parameters() if p.grad is not None])
    assert quality.gradient_norm == pytest.approx(float(gradients.norm()), rel=1e-5)
    assert int(gradients.count_nonzero()) < gradients.numel()  # some units do not fire on this batch
    assert quality.gradient_flow == 1


def test_gradients_no_longer_flow_where_a_path_is_cut_off(tmp_path: Path) -> None:
    made = saved(tmp_path)
    whole = np.ones(made.anatomy.num_units, np.bool_)
    cut_off = whole.copy()
    cut_off[24:] = False  # the whole second layer: nothing reaches the first
    full = measure(made.case, whole.tolist(), whole.tolist())
    none = measure(made.case, cut_off.tolist(), whole.tolist())
    assert none.gradient_flow is not None
    assert full.gradient_flow is not None
    assert none.gradient_flow < 0.1 * full.gradient_flow
    # What goes does not count: the second layer's gradient lies in units that are no survivors.
    one, other = whole.copy(), whole.copy()
    one[36:], other[24:36] = False, False
    unseen = measure(made.case, one.tolist(), other.tolist())
    assert unseen.gradient_flow is not None
    assert unseen.gradient_flow < full.gradient_flow
    half = whole.copy()
    half[24:36] = False
    kept = measure(made.case, half.tolist(), half.tolist())
    assert kept.gradient_flow is not None
    assert kept.gradient_flow > 0.5 * full.gradient_flow


class OneSize(nn.Module):
    """Works with batches of eight samples only."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.relu(self.up(x)).view(8, -1))
        return out


def test_a_network_with_one_batch_size_is_measured_in_batches_of_it(tmp_path: Path) -> None:
    made = saved(tmp_path / "fits", build=OneSize, steps=0, sample=examples(8, 0))
    ablated = ablate(made.case, [0, 5])
    assert ablated.num_batches == 8
    assert ablated.rises.shape == (2, 4)
    keep = [True] * made.anatomy.num_units
    quality = measure(made.case, keep, keep)
    assert quality.losses is not None
    assert len(quality.losses) == 15
    few = HeldOut((examples(5, 1),), (examples(5, 2),))
    short = saved(tmp_path / "short", build=OneSize, steps=0, sample=examples(8, 0), held_out=few)
    with pytest.raises(EvidenceError, match="batches of 8 samples only"):
        ablate(short.case, [0])


def test_confidence_of_a_case_computed_by_hand() -> None:
    # means 0, 1, 2: the cut at the median is 1. With two batches, the middle unit (0 and 2) is resampled to
    # 0, 1 or 2 with probabilities 1/4, 1/2, 1/4, so that it stays at or below the cut in 3 of 4 draws.
    increases = np.array([[0.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    found = confidence(increases, quantile=0.5, resamples=20_000, seed=1)
    assert (found[0], found[2]) == (1.0, 0.0)
    assert found[1] == pytest.approx(0.75, abs=0.02)


@given(
    arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 5)), elements=st.floats(-1, 1)),
    st.floats(0.1, 5.0),
)
def test_confidence_is_a_share_that_no_unit_below_all_others_lacks(
    increases: np.ndarray[tuple[int, ...], np.dtype[np.float64]], scale: float
) -> None:
    found = confidence(increases)
    assert ((found >= 0) & (found <= 1)).all()
    assert np.array_equal(found, confidence(increases))
    widened = np.vstack([increases, np.full((1, increases.shape[1]), -2.0)])
    assert confidence(widened)[-1] == 1.0
    missing = np.vstack([increases, np.full((1, increases.shape[1]), np.nan)])
    assert np.isnan(confidence(missing)[-1])
    assert np.array_equal(confidence(missing)[:-1], found)


def test_confidence_of_nothing_measured_is_nothing() -> None:
    assert np.isnan(confidence(np.full((3, 2), np.nan))).all()
