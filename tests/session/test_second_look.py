"""A run that looks at its twin before it ablates: of channels that carry one signal one leads."""

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


def test_a_run_that_looks_at_its_twin_lets_one_copy_stand_in_for_the_other(tmp_path: Path) -> None:
    run = Doubled(tmp_path / "run", analysis={"measure_twin": True})
    run.epoch()
    run.epoch()
    decision = run.decision()
    assert decision.outcome is not None
    evidence = decision.outcome.evidence
    assert evidence is not None
    assert np.isfinite(evidence.taylor).all()
    led = np.flatnonzero(evidence.leaders[:32] >= 0)
    assert led.size
    assert (np.abs(evidence.leaders[led] - led) == 16).all()
    assert np.abs(evidence.loss_increase[led]).max() < 1e-6
    run.session.detach()
