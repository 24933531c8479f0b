"""What the blocks of all pages take for granted: small networks that learn, their data, what trains them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

Loader = DataLoader[tuple[Tensor, ...]]
CLASSES = 4


class Network(nn.Module):
    """Two convolutions with batch norms, and a linear layer, for pictures of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.Conv2d(24, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
        )
        self.classifier = nn.Linear(96, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores [pictures, classes]."""
        scores: Tensor = self.classifier(self.features(pictures).flatten(1))
        return scores


class Residual(nn.Module):
    """Two parts of a network that can be left out: x + f(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)
        )
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x: Tensor) -> Tensor:
        """As wide as `x`."""
        x = x + self.mix(x)
        out: Tensor = x + self.mlp(x)
        return out


class DeepNetwork(nn.Module):
    """Six residual layers behind one another, on pictures of 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 16)
        self.layers = nn.ModuleList(Residual(16) for _ in range(6))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores [pictures, classes]."""
        x = self.stem(pictures.flatten(1))
        for layer in self.layers:
            x = layer(x)
        scores: Tensor = self.head(self.norm(x))
        return scores


def pictures(count: int, seed: int) -> TensorDataset:
    """Noisy pictures [count, 1, 8, 8] and the number of the quarter that is brighter."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 1, 8, 8, generator=generator)
    quarter = torch.randint(CLASSES, (count,), generator=generator)
    for number in range(CLASSES):
        row, column = 4 * (number // 2), 4 * (number % 2)
        pixels[quarter == number, :, row : row + 4, column : column + 4] += 1.0
    return TensorDataset(pixels, quarter)


def loader_of(count: int, seed: int) -> Loader:
    """Batches of 32 of such pictures."""
    return DataLoader(pictures(count, seed), batch_size=32)


def evaluate(model: nn.Module) -> float:
    """Share of right answers on pictures of its own."""
    x, y = pictures(128, seed=2).tensors
    model.eval()
    with torch.no_grad():
        share = float((model(x).argmax(1) == y).float().mean())
    model.train()
    return share


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loader: Loader) -> int:
    """One epoch; tells how many steps it had."""
    for x, y in loader:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return len(loader)
