"""Sizes that a graph is right for: its code may do something else with longer inputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.anatomy.graph import trace
from esper.anatomy.twin import Twin


class Cropped(nn.Module):
    """Looks at the first eight words of longer texts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.embed(x if x.shape[1] <= 8 else x[:, :8]).mean(1))
        return out


def texts(count: int, length: int) -> tuple[Tensor, Tensor]:
    return torch.randint(9, (count, length)), torch.randint(3, (count,))


def test_lengths_for_which_the_code_branches_are_not_taken() -> None:
    twin = Twin.of(trace(Cropped(), texts(4, 6), F.cross_entropy, free=frozenset({(0, 1)})))
    for one in (twin, Twin.from_bytes(twin.to_bytes())):
        assert [one.takes(texts(4, length)) for length in (5, 8, 9, 20)] == [True, True, False, False]
        assert one.takes(texts(1, 6))
        assert one.takes(texts(99, 6))
