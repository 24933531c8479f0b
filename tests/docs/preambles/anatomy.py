"""Networks to look at and to cut, each with its optimizer."""

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import esper
from esper.anatomy import Anatomy
from esper.arrays import BoolArray
from tests.docs.material import DeepNetwork, loader_of

x, y = next(iter(loader_of(32, seed=1)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.conv2(self.conv1(x).relu())
        return out


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer1, self.head = nn.Conv2d(1, 16, 3), nn.Sequential(Block()), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.layer1(self.stem(x)).mean((2, 3)))
        return scores


def adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), 1e-3)


def anew() -> tuple[nn.Module, torch.optim.Optimizer, Anatomy, BoolArray]:
    network = ResNet()
    found = esper.inspect(network, (x, y), loss=nn.functional.cross_entropy)
    mask = np.ones(found.num_units, dtype=np.bool_)
    mask[:4] = False
    return network, adam(network), found, mask


def deep() -> tuple[nn.Module, torch.optim.Optimizer, Anatomy, BoolArray, AveragedModel, torch.Tensor]:
    network = DeepNetwork()
    found = esper.inspect(network, x)
    mask = np.ones(found.num_units, dtype=np.bool_)
    mask[:4] = False
    return network, adam(network), found, mask, AveragedModel(network), x


model = ResNet()
optimizer = adam(model)
