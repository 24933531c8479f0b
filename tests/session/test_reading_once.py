"""A resume reads every byte of its checkpoint once to hash it, and copies from there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import esper

SIDE = 900


def made() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, SIDE), nn.Linear(SIDE, SIDE), nn.Linear(SIDE, 2))
    return model, torch.optim.Adam(model.parameters(), 1e-3)


def bytes_read() -> int:
    """By read calls of this process, all its threads together; what is mapped is not read."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "encrypted"])
def test_every_byte_is_read_once(tmp_path: Path, hidden: bool) -> None:
    model, optimizer = made()
    sample = (torch.randn(4, 8), torch.randn(4, 2))
    loss = nn.functional.mse_loss
    config = {"checkpoint": {"encrypt_weights": hidden}, "pruning": {"target": None}}
    session = esper.attach(model, optimizer, loss=loss, sample=sample, run_dir=tmp_path, config=config)
    session.loss(model(sample[0]), sample[1]).backward()
    optimizer.step()
    session.end_epoch(accuracy=0.5)
    session.detach()
    steps = list(tmp_path.glob("checkpoints/step-*"))
    size = max(sum(file.stat().st_size for file in step.iterdir()) for step in steps)
    assert size > 9_000_000
    before = bytes_read()
    resumed, its_optimizer = made()
    session = esper.resume(tmp_path, resumed, its_optimizer, loss=loss)
    read = bytes_read() - before
    session.detach()
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(*map(_values, (model, resumed)), strict=True)
    )
    assert size <= read <= (2.1 if hidden else 1.1) * size  # what is encrypted is read once more, to open it


def _values(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())
