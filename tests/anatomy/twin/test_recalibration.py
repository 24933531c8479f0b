"""Running statistics that are measured anew, or moved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import loss_tensors, trace
from esper.anatomy.twin import Twin, Variants
from esper.anatomy.twin.recalibration import Statistics


class TwiceNormed(nn.Module):
    """One norm for what two layers make, as the heads of a feature pyramid share theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.norm = nn.Linear(6, 4), nn.Linear(6, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.one(x)) + self.norm(self.other(x) * 5.0 + 2.0)
        return out


def test_a_norm_that_runs_twice_keeps_the_mean_of_both() -> None:
    torch.manual_seed(0)
    model = TwiceNormed()
    x, y = torch.randn(32, 6), torch.randint(4, (32,))
    twin = Twin.of(trace(model, (x, y), F.cross_entropy))
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    fresh = twin.recalibrated(state, [(x, y)])
    seen = [model.one(x), model.other(x) * 5.0 + 2.0]
    assert torch.allclose(fresh["norm.running_mean"], sum(v.mean(0) for v in seen) / 2, atol=1e-5)
    assert torch.allclose(fresh["norm.running_var"], sum(v.var(0) for v in seen) / 2, atol=1e-4)
    assert twin.running_means == {"norm.running_mean"}


class Judged(nn.Module):
    """A loss that is another network's opinion, as a generator has it."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

    def forward(self, output: Tensor, _: Tensor) -> Tensor:
        loss: Tensor = self.judge(output).square().mean()
        return loss


@pytest.mark.parametrize("is_module", [True, False])
def test_norms_that_only_the_loss_has_keep_their_statistics(*, is_module: bool) -> None:
    torch.manual_seed(0)
    model, loss = TwiceNormed(), Judged().eval()
    sample = torch.randn(32, 6), torch.zeros(32)
    traced = trace(model, sample, loss if is_module else loss.forward)
    twin = Twin.of(traced)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers()), **loss_tensors(loss)}
    fresh = twin.recalibrated(state, [sample])
    assert {name for name in state if not torch.equal(fresh[name], state[name])} == {
        "norm.running_mean",
        "norm.running_var",
    }
    variants = Variants(twin, state, sample, most_bytes=1 << 20)
    assert list(variants.usual) == twin.norms
    assert len(twin.norms) == 2
    assert twin.running_means == {"norm.running_mean"}


def test_a_channel_that_comes_back_gets_what_it_shows_now() -> None:
    own = Statistics(torch.tensor([0.1, 2.0]), torch.tensor([1e-3, 1.0]))
    before = Statistics(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))
    now = Statistics(torch.tensor([5.0, 1.5]), torch.tensor([4.0, 1.0]))
    moved = own.moved(before, now)
    assert torch.equal(moved.mean, torch.tensor([5.0, 2.5]))
    assert moved.variance[0] == 4.0
    assert moved.variance[1].item() == pytest.approx(0.5, abs=0.01)
