"""Networks that carry a state, write into tensors, pick by index, or share keys among all heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.anatomy.networks.case import Case, sequences


class Gated(nn.Module):
    """torch's own recurrent cells, two layers of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.cells = nn.Linear(8, 10), nn.GRU(10, 12, num_layers=2, batch_first=True)
        self.last = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.cells(F.relu(self.before(x)))[0])
        return out


class Remembering(nn.Module):
    """A projected LSTM that starts from what it has learned, and another that reads it in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(8, 12, proj_size=6, batch_first=True)
        self.start, self.cell = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 1, 12))
        self.second = nn.LSTM(6, 10, bidirectional=True)
        self.last = nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        y, _ = self.first(x, (self.start.repeat(1, count, 1), self.cell.repeat(1, count, 1)))
        _, (ends, _) = self.second(y.transpose(0, 1))
        out: Tensor = self.last(torch.cat([ends[0], ends[1]], -1))
        return out


class Called(nn.Module):
    """Cells that code calls for every step: one begins from zeros, the other from what the first has kept."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.LSTMCell(8, 12), nn.GRUCell(12, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        state: tuple[Tensor, Tensor] | None = None
        for step in x.unbind(1):
            state = self.first(step, state)
        assert state is not None
        hidden, seen = state
        for _ in range(2):
            hidden = self.second(seen, hidden)
        out: Tensor = self.last(hidden)
        return out


class Scan(nn.Module):
    """A selective state space, step by step: a state of zeros, and a buffer that every step writes into."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.states = 12, 4
        self.into, self.select = nn.Linear(8, 24), nn.Linear(12, 8)
        self.decay, self.last = nn.Parameter(torch.rand(12, 4)), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.into(x).chunk(2, -1)
        into, out_of = self.select(y).chunk(2, -1)
        state = torch.zeros(x.shape[0], self.width, self.states, dtype=x.dtype)
        seen = torch.empty(x.shape[0], x.shape[1], self.width, dtype=x.dtype)
        for step in range(x.shape[1]):
            state = torch.exp(-self.decay) * state + torch.multiply(y[:, step, :, None], into[:, step, None])
            seen[:, step] = (state * out_of[:, step, None]).sum(-1)
        out: Tensor = self.last(seen * F.silu(gate))
        return out


class SharedKeys(nn.Module):
    """Multi-query attention: one key and one value for all heads, repeated by `expand`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head_width = 32, 8
        self.qkv, self.out = nn.Linear(32, 48), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).split([self.inner, self.head_width, self.head_width], -1)
        q = q.view(b, t, -1, self.head_width).transpose(1, 2)
        k, v = (y.unsqueeze(1).expand(b, q.shape[1], t, self.head_width) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, scale=0.3)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class Turned(nn.Module):
    """Rotary positions by complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.out = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, 8)).transpose(1, 2) for p in (self.q, self.k, self.v))
        angles = torch.outer(torch.arange(x.shape[1]), 10 ** -torch.arange(4.0)).to(x.dtype)
        turn = torch.polar(torch.ones_like(angles), angles)
        q, k = (torch.view_as_real(torch.view_as_complex(y.unflatten(-1, (4, 2))) * turn) for y in (q, k))
        y = F.scaled_dot_product_attention(q.flatten(-2), k.flatten(-2), v)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


class Picked(nn.Module):
    """The best places are gathered by an index, and added to a table of zeros by another."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.width = nn.Linear(8, 1), 12
        self.make, self.last = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        best = self.score(x).squeeze(-1).topk(3, 1).indices
        y = F.relu(self.make(x))
        picked = y.gather(1, best.unsqueeze(-1).expand(-1, -1, self.width))
        table = torch.zeros(x.shape[0], 4, self.width, dtype=x.dtype)
        table = table.index_add(1, torch.tensor([0, 2, 2]), picked)
        out: Tensor = self.last(table)
        return out


class Overwritten(nn.Module):
    """The part of a tensor is replaced by that of another; how large it is stands in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 2)
        self.part = 4

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(y)
        y = y.clone()
        y[:, : self.part] = z[:, : self.part]
        out: Tensor = self.last(F.relu(y))
        return out


STATEFUL = {
    "gru": Case(Gated, sequences(8, 4), groups=2),
    "lstm": Case(Remembering, sequences(8, 5), groups=3),
    "cells": Case(Called, sequences(8, 3), groups=1),
    "state-space": Case(Scan, sequences(8, 4), groups=1, frozen_by=("is not both made and read",)),
    "multi-query": Case(SharedKeys, sequences(), groups=1, heads=1),
    "rotary-complex": Case(Turned, sequences(), groups=1, heads=1),
    "picked-by-index": Case(Picked, sequences(8, 6), groups=1),
    "write-into-slice": Case(Overwritten, lambda: torch.randn(2, 8), groups=2),
}
