"""Networks that ask for trouble: unusual tensors, writes, control flow, layers from other libraries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune


def x() -> Tensor:
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


def perceptron(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 12, **options),
        nn.ReLU(),
        nn.Linear(12, 10, **options),
        nn.ReLU(),
        nn.Linear(10, 4, **options),
    )


class Pair(nn.Module):
    """Two layers, and something in between."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 4)


class WritesInput(Pair):
    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)  # the line that the message must name
        out: Tensor = self.down(torch.relu(self.up(x)))
        return out


class WritesPartOfInput(Pair):
    def forward(self, x: Tensor) -> Tensor:
        x[:, :4].add_(1)
        out: Tensor = self.down(torch.relu(self.up(x)))
        return out


class WritesWholeView(Pair):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        hidden.view(-1, 12 if hidden.shape[1] == 12 else hidden.shape[1]).relu_()
        out: Tensor = self.down(hidden)
        return out


class WritesPartOfView(Pair):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        hidden[:, :6].mul_(2).relu_()
        out: Tensor = self.down(hidden)
        return out


class Branches(Pair):
    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.up(x))
        if hidden.mean() > 0:
            hidden = hidden * 2
        out: Tensor = self.down(hidden)
        return out


class CountsToATensor(Pair):
    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.up(x))
        for _ in range(int(x.abs().sum()) % 3):
            hidden = hidden + 1
        out: Tensor = self.down(hidden)
        return out


class Selects(Pair):
    """As many rows as the data has positive ones."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.up(x))
        out: Tensor = self.down(hidden[hidden.sum(1) > 0])
        return out


class Shares(nn.Module):
    """One block under two names, used three times."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 4)
        self.again = self.up

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.up, self.again, self.up):
            x = x + self.down(torch.relu(layer(x)))
        out: Tensor = self.head(x)
        return out


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(8, 12, dtype=torch.complex64)
        self.down = nn.Linear(12, 4, dtype=torch.complex64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(torch.tanh(self.up(x.to(self.up.weight.dtype)))).abs()
        return out


class WithIntegers(nn.Module):
    """A frozen integer weight between two layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 4)
        self.table = nn.Parameter(torch.randint(-5, 5, (12, 12), dtype=torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.linear(torch.relu(self.up(x)), self.table.to(x.dtype) * 0.1)
        out: Tensor = self.down(torch.relu(mixed))
        return out


class Remembers(Pair):
    """Keeps in eval mode what it once computed, as position biases are kept, until it trains again."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.seen = nn.Parameter(torch.randn(3, 12)), dict[str, Tensor]()

    def train(self, mode: bool = True) -> Remembers:
        super().train(mode)
        if mode:
            self.seen = {}
        return self

    def forward(self, x: Tensor) -> Tensor:
        bias = self.seen.get("bias")
        if self.training or bias is None:
            self.seen["bias"] = bias = self.bias.sum(0)
        out: Tensor = self.down(torch.relu(self.up(x) + bias))
        return out


def with_memories() -> nn.Module:
    model = Remembers().eval()
    model(x())
    return model


class SmallFloats(nn.Module):
    """A frozen weight of a type that torch cannot multiply, widened where it is used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 4)
        self.between = nn.Parameter(torch.randn(12, 12).to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.linear(torch.relu(self.up(x)), self.between.to(x.dtype))
        out: Tensor = self.down(torch.relu(mixed))
        return out


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 12)
        self.weight = nn.Parameter(torch.randn(4, 12).to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.sparse.mm(self.weight, torch.relu(self.up(x)).T).T
        return out


class OwnTensor(Tensor):
    """A tensor with a class of its own."""


def with_own_tensor() -> nn.Module:
    model = perceptron()
    model[0].weight = nn.Parameter(model.get_parameter("0.weight").detach().as_subclass(OwnTensor))
    return model


def quantized() -> nn.Module:
    """As `torch.ao.quantization.quantize_dynamic` leaves it."""
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), torch.ao.nn.quantized.dynamic.Linear(12, 4))


def everywhere(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model = perceptron()
        for layer in (model[0], model[2]):
            change(layer)
        return model

    return build


def unstructured() -> nn.Module:
    """With the masks and hooks that torch's own pruning leaves."""
    model = perceptron()
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.ln_structured(model[2], "weight", 0.5, 2, 0)
    return model
