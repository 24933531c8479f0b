"""Frozen copies inside a network are known from when its run began, however far they have drifted since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

import esper
from tests.anatomy.graph.test_followers import Momentum


def agree(output: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return (output[0] - output[1]).square().mean() + 0.0 * target.mean()


def test_a_run_goes_on_also_where_somebody_has_loaded_its_weights_before(tmp_path: Path) -> None:
    model, batch = Momentum(), (torch.randn(8, 6), torch.zeros(8))
    probe = [batch, batch]
    optimizer = AdamW(model.parameters(), 0.01)
    asked: dict[str, Any] = {"config": {"pruning": {"target": {"flops": 0.3}}}, "epochs": 4}
    session = esper.attach(
        model, optimizer, loss=agree, sample=batch, probe=probe, metric="loss", run_dir=tmp_path, **asked
    )
    for _ in range(3):
        optimizer.zero_grad()
        session.loss(model(batch[0]), batch[1]).backward()
        optimizer.step()
        model.average()
    session.end_epoch(loss=1.0)
    followers, weights = session.network.followers, model.state_dict()
    session.detach()
    assert followers

    again = Momentum()
    again.load_state_dict(weights)
    session = esper.resume(tmp_path, again, AdamW(again.parameters(), 0.01), loss=agree)
    assert session.network.followers == followers
    session.detach()
