"""Cutting at once with held-out data: chosen by loss, made up for, measured, and proven."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.compaction.compacted import Compacted
from esper.errors import ConfigError, EvidenceError, SurgeryError
from esper.runs.network import FORM_FILE
from tests.anatomy.cut.test_program import Stubborn

Batch = tuple[Tensor, Tensor]


def examples(count: int, seed: int) -> Batch:
    """Inputs [count, 6]; the target is which of the first three is largest."""
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def trained() -> nn.Sequential:
    """Right on most samples, with more units than it needs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    for step in range(120):
        x, y = examples(64, step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def probe(count: int = 12) -> list[Batch]:
    return [examples(32, 1000 + n) for n in range(count)]


def compacted(model: nn.Module, **how: Any) -> Compacted:
    given: dict[str, Any] = {
        "flops": 0.4,
        "probe": probe(),
        "loss": F.cross_entropy,
        "sample": examples(8, 1),
    }
    return esper.compact(model, **{**given, **how})


def judged(model: nn.Module) -> tuple[float, float]:
    """Loss and accuracy on samples that nothing was decided by."""
    x, y = examples(4000, 9999)
    with torch.no_grad():
        output = model(x)
        return float(F.cross_entropy(output, y)), float((output.argmax(1) == y).float().mean())


def test_less_is_lost_than_by_magnitude_and_the_quality_is_measured() -> None:
    model = trained()
    whole = judged(model)[1]
    measured, by_size = copy.deepcopy(model), copy.deepcopy(model)
    result = compacted(measured, flops=0.6)
    esper.compact(by_size, sample=examples(8, 1), loss=F.cross_entropy, flops=0.6)
    assert result.flops_after <= 0.4 * result.flops_before
    assert judged(measured)[0] < judged(by_size)[0]
    assert judged(measured)[1] > whole - 0.02
    assert result.proof.float64_error is not None
    assert result.proof.float64_error <= 1e-12
    assert result.quality is not None
    assert result.quality.samples >= 128
    assert result.quality.accuracy_before == pytest.approx(whole, abs=0.05)
    assert result.quality.accuracy_after == pytest.approx(judged(measured)[1], abs=0.05)
    assert result.quality.loss_after > 0


def test_the_reported_loss_is_that_of_the_cut_network_on_samples_that_did_not_decide() -> None:
    model, batches = trained(), probe()
    config = esper.Config(analysis={"calibration_samples": 128, "held_out_samples": 256, "batch_samples": 32})
    before = copy.deepcopy(model)
    result = compacted(model, probe=batches, config=config)
    assert result.quality is not None
    assert result.quality.samples == 256
    x, y = (torch.cat(parts) for parts in zip(*batches[4:], strict=True))
    with torch.no_grad():
        assert result.quality.loss_before == pytest.approx(float(F.cross_entropy(before(x), y)), rel=1e-4)
        assert result.quality.loss_after == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-4)


def test_a_mask_of_ones_own_is_made_up_for_and_measured() -> None:
    model = trained()
    keep = np.ones(56, np.bool_)
    keep[:12] = False
    plain = copy.deepcopy(model)
    esper.compact(plain, keep, sample=examples(8, 1), loss=F.cross_entropy)
    result = compacted(model, plan=keep, flops=None)
    assert np.array_equal(result.keep, keep)
    assert result.quality is not None
    x, y = examples(2000, 77)
    with torch.no_grad():
        assert F.cross_entropy(model(x), y) < F.cross_entropy(plain(x), y)


def test_a_choice_by_magnitude_is_made_up_for_too() -> None:
    model, same = trained(), trained()
    result = compacted(model, by="magnitude")
    assert np.array_equal(
        result.keep, esper.compact(same, sample=examples(8, 1), loss=F.cross_entropy, flops=0.4).keep
    )
    assert result.quality is not None
    assert judged(model)[0] < judged(same)[0]


def test_a_program_is_cut_with_its_new_weights_and_the_network_stays_as_it_is() -> None:
    torch.manual_seed(0)
    model = Stubborn().eval()
    x = torch.randn(48, 10, 32)
    before = copy.deepcopy(model.state_dict())
    batches = [(part, torch.randint(0, 5, (8,))) for part in x.split(8)]
    result = esper.compact(
        model, sample=batches[0], loss=F.cross_entropy, flops=0.3, probe=batches, in_place=False
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert result.flops_after < 0.75 * result.flops_before
    assert result.quality is not None
    given = result.model(x[:8])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(result.model(x[:8]), given)  # nothing is shared


def test_what_cannot_be_cut_leaves_every_value_as_it_was() -> None:
    class Watchful(nn.Module):
        """Refuses to run narrower than it was."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = trained()

        def forward(self, x: Tensor) -> Tensor:
            if len(next(self.inner.parameters())) < 32:
                raise RuntimeError("too small")
            out: Tensor = self.inner(x)
            return out

    model = Watchful().eval()
    before = copy.deepcopy(model.state_dict())
    keep = np.ones(56, np.bool_)
    keep[:4] = False
    with pytest.raises(SurgeryError):
        compacted(model, plan=keep, flops=None)
    after = model.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert after.keys() == before.keys()


def test_the_quality_is_saved_with_the_files(tmp_path: Path) -> None:
    result = compacted(trained())
    result.save(tmp_path / "out")
    stored = json.loads((tmp_path / "out" / FORM_FILE).read_bytes())
    assert result.quality is not None
    assert stored["quality"]["loss_after"] == result.quality.loss_after
    assert esper.load(tmp_path / "out")(examples(4, 3)[0]).shape == (4, 3)


def test_an_optimizer_goes_on_with_the_cut_network() -> None:
    model = trained()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    x, y = examples(64, 5)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    compacted(model, optimizer=optimizer)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"loss": None, "sample": examples(8, 1)[0]}, "judged by a loss"),
        ({"by": "loss", "probe": None}, "needs held-out batches"),
        ({"by": "taylor"}, "by 'taylor'"),
        ({"probe": probe(1)[:1], "config": esper.Config(analysis={"batch_samples": 64})}, "too few"),
        ({"flops": None}, "Say what shall go"),
    ],
)
def test_a_question_without_an_answer_is_refused(how: dict[str, Any], said: str) -> None:
    model = trained()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=said):
        compacted(model, **how)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_batches_that_are_not_like_the_sample_are_refused() -> None:
    odd = [(torch.randn(32, 7), torch.zeros(32, dtype=torch.long)) for _ in range(8)]
    with pytest.raises(EvidenceError, match="traced with"):
        compacted(trained(), probe=odd)


class Normed(nn.Module):
    """A residual stream under RMS norms; inputs [B, 6], classes [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 24), nn.Linear(24, 3)
        self.inner, self.outer = nn.RMSNorm(24), nn.RMSNorm(24)
        self.up, self.down = nn.Linear(24, 32), nn.Linear(32, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.down(F.relu(self.up(self.inner(x))))
        given: Tensor = self.leave(self.outer(x))
        return given


def test_what_an_approximate_cut_costs_is_that_of_the_network_that_comes_out() -> None:
    torch.manual_seed(0)
    model, batches = Normed().eval(), probe()
    config = esper.Config(analysis={"calibration_samples": 128, "held_out_samples": 256, "batch_samples": 32})
    result = compacted(model, probe=batches, config=config, allow_approximate=True)
    assert model.outer.weight.numel() < 24
    assert result.proof.approximation is not None
    assert result.proof.float64_error is not None
    assert result.proof.float64_error <= 1e-12
    assert result.quality is not None
    x, y = (torch.cat(parts) for parts in zip(*batches[4:], strict=True))
    with torch.no_grad():
        assert result.quality.loss_after == pytest.approx(float(F.cross_entropy(model(x), y)), rel=1e-4)


def test_twins_are_folded_and_nothing_else_goes(tmp_path: Path) -> None:
    model = trained()
    with torch.no_grad():
        first = model[0]
        assert isinstance(first, nn.Linear)
        first.weight[5], first.bias[5] = first.weight[2], first.bias[2]
    expected = model(examples(32, 7)[0])
    result = esper.compact(model, sample=examples(8, 1)[0], fold=True)
    assert model[0].weight.shape == (31, 6)
    assert torch.allclose(model(examples(32, 7)[0]), expected, atol=1e-5)
    assert np.flatnonzero(~result.keep).tolist() == [5]
    loaded = esper.load(result.save(tmp_path / "out"))
    assert torch.allclose(loaded(examples(8, 7)[0]), expected[:8], atol=1e-5)
    assert np.all(esper.compact(model, sample=examples(8, 1)[0], fold=True).keep)


@pytest.mark.parametrize("more", [{"flops": 0.5}, {"plan": np.ones(56, np.bool_)}, {"in_place": False}])
def test_folding_is_asked_for_alone(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="fold=True removes what is there twice"):
        esper.compact(trained(), sample=examples(8, 1)[0], fold=True, **more)
