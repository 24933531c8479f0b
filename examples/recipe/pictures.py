"""What `image.toml` names: a network, made-up pictures, and which of them train, decide and judge."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def network() -> nn.Module:
    """Two convolutions and a linear layer for pictures of 16 x 16 and four classes."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1024, 4)),
    )


def training() -> DataLoader[tuple[Tensor, ...]]:
    """Pictures to learn from."""
    return DataLoader(TensorDataset(*_pictures(2048, seed=1)), batch_size=32, shuffle=True)


def deciding() -> DataLoader[tuple[Tensor, ...]]:
    """Pictures that decisions rest on."""
    return DataLoader(TensorDataset(*_pictures(1536, seed=2)), batch_size=64)


def judging() -> DataLoader[tuple[Tensor, ...]]:
    """Pictures that no decision sees."""
    return DataLoader(TensorDataset(*_pictures(1024, seed=3)), batch_size=64)


def _pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy pictures [count, 1, 16, 16] and the number of the quarter that holds a blob."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(count, 1, 16, 16, generator=generator)
    quarter = torch.randint(4, (count,), generator=generator)
    for number in range(4):
        row, column = 8 * (number // 2), 8 * (number % 2)
        pixels[quarter == number, :, row + 2 : row + 6, column + 2 : column + 6] += 1.0
    return pixels, quarter
