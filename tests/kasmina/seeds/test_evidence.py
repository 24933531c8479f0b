"""Held-out batches are compared in parts that stand for themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from esper.kasmina.seeds.evidence import Probe


def contrast(output: Tensor, target: Tensor) -> Tensor:
    """Every sample against all others of its batch."""
    return nn.functional.cross_entropy(output @ output.T, torch.arange(len(target)))


def test_batches_whose_samples_meet_in_the_loss_stay_whole() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    batches = [(torch.randn(24, 4), torch.zeros(24)) for _ in range(3)]
    wanted = [float(contrast(model(x), y).detach()) for x, y in batches]
    whole, parts = Probe(model, contrast, batches, whole=True), Probe(model, contrast, batches)
    assert torch.allclose(torch.tensor(whole.losses()), torch.tensor(wanted, dtype=torch.float64))
    assert parts.losses().size == 9
