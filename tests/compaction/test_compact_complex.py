"""Networks with complex weights are cut, saved and loaded like others."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import esper


def test_complex_weights_are_saved_and_loaded(tmp_path: Path) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 3)
            self.turn = nn.Parameter(torch.tensor([1.0 + 1.0j, 2.0j, -1.0]))

        def forward(self, x: Tensor) -> Tensor:
            turned: Tensor = self.last(self.first(x).relu()) * self.turn
            return turned.abs()

    model, x = Turned(), torch.randn(2, 6)
    esper.compact(model, sample=x, flops=0.5).save(tmp_path / "out")
    model.eval()
    assert torch.equal(esper.load(tmp_path / "out")(x), model(x))
    loaded = esper.load(tmp_path / "out", model=Turned())
    assert torch.equal(loaded.turn, model.turn)
    assert torch.equal(loaded(x), model(x))
