"""A run that looks at its twin before it measures layers; of channels that carry one signal half are free."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.session.runs import Training


def doubled_network() -> nn.Sequential:
    """Half of the first layer's channels are copies of the other half, and stay copies in training."""
    torch.manual_seed(0)
    first, second = nn.Linear(8, 32), nn.Linear(32, 32)
    with torch.no_grad():
        for part in (first.weight, first.bias):
            part[16:] = part[:16]
        second.weight[:, 16:] = second.weight[:, :16]
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(32, 4))


class Doubled(Training):
    build = staticmethod(doubled_network)


def test_a_run_that_looks_at_its_twin_knows_slopes_and_that_one_of_two_copies_is_free(tmp_path: Path) -> None:
    run = Doubled(tmp_path / "run", analysis={"measure_twin": True})
    run.epoch()
    run.epoch()
    decision = run.decision()
    assert decision.outcome is not None
    evidence = decision.outcome.evidence
    assert evidence is not None
    assert np.isfinite(evidence.taylor).all()
    first = np.argsort(evidence.loss_increase[:32])[:16]
    assert np.unique(first % 16).size == 16  # one of every two, and never both
    assert evidence.loss_increase[first[:8]].max() < 1e-4
    run.session.detach()
