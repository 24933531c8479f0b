"""Mixtures of experts written in the ways that people write them, with 6 experts of width 10."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXPERTS, CHOSEN = 6, 2


class Mixture(nn.Module):
    """A residual layer of experts between two linear ones; inputs [B, T, 5], outputs [B, T, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.num_experts = EXPERTS
        self.first, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.router = nn.Linear(8, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, 8, 10) / 2)
        self.down = nn.Parameter(torch.randn(EXPERTS, 10, 8) / 2)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        return self.head(x + self.mixed(x))

    def mixed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def by_all(self, x: Tensor) -> Tensor:
        """What every expert gives: [B, T, experts, 8]."""
        hidden = F.gelu(torch.einsum("btc,ech->bteh", x, self.up))
        return torch.einsum("bteh,ehc->btec", hidden, self.down)


class EveryExpert(Mixture):
    def mixed(self, x: Tensor) -> Tensor:
        given: Tensor = (self.by_all(x) * self.router(x).softmax(-1).unsqueeze(-1)).sum(2)
        return given


class Scattered(Mixture):
    def mixed(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        best, chosen = scores.topk(CHOSEN, -1)
        weights = torch.zeros_like(scores).scatter(-1, chosen, best.softmax(-1))
        return torch.einsum("btec,bte->btc", self.by_all(x), weights)


class SpelledOut(Mixture):
    def mixed(self, x: Tensor) -> Tensor:
        best, chosen = self.router(x).softmax(-1).topk(CHOSEN, -1)
        weights = (F.one_hot(chosen, self.num_experts) * best.unsqueeze(-1)).sum(-2)
        return torch.einsum("btec,bte->btc", self.by_all(x), weights)


class LookedUp(Mixture):
    def mixed(self, x: Tensor) -> Tensor:
        scores = self.router(x).sigmoid()
        chosen = scores.topk(CHOSEN, -1).indices
        weights = scores.gather(-1, chosen).unsqueeze(-1)
        hidden = F.gelu(torch.einsum("btc,btkch->btkh", x, self.up[chosen]))
        given: Tensor = (torch.einsum("btkh,btkhc->btkc", hidden, self.down[chosen]) * weights).sum(2)
        return given


class Neighbors(Mixture):
    """Counts on from the expert that was chosen, so their numbers mean something."""

    def mixed(self, x: Tensor) -> Tensor:
        best, chosen = self.router(x).softmax(-1).topk(CHOSEN, -1)
        given: Tensor = self.up[(chosen + 1) % self.num_experts].mean((-1, -3)) * best.sum(-1, keepdim=True)
        return given


class Numbered(Mixture):
    """Gives the numbers of the experts to its user."""

    def mixed(self, x: Tensor) -> Tensor:
        scores = self.router(x)
        self.chosen = scores.topk(CHOSEN, -1).indices
        given: Tensor = (self.by_all(x) * scores.softmax(-1).unsqueeze(-1)).sum(2)
        return given

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        given = super().forward(x)
        return given, self.chosen


class Reordered(Numbered):
    """The same, in the order of another tensor."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        given, chosen = super().forward(x)
        order = x.sum(-1).argsort(-1).unsqueeze(-1).expand(-1, -1, CHOSEN)
        return given, chosen.gather(1, order)


ROUTED: dict[str, type[Mixture]] = {
    kind.__name__: kind for kind in (EveryExpert, Scattered, SpelledOut, LookedUp)
}
COUNTED: dict[str, type[Mixture]] = {kind.__name__: kind for kind in (Neighbors, Numbered, Reordered)}


def mixture(kind: type[Mixture]) -> Mixture:
    """One with the same weights every time."""
    torch.manual_seed(0)
    return kind().eval()
