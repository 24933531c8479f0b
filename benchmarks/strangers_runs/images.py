"""Convolutional networks and a vision transformer that tell digits and garments apart."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from esper.cli.demo import ResNet8
from strangers_runs.data import all_fashion, digits, fashion
from strangers_runs.run import Data, Folders, Run, is_right, rows


class SmallCNN(nn.Module):
    """Two convolutions and two linear layers, as in the first tutorial that everybody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(32 * 7 * 7, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        scores: Tensor = self.fc2(F.relu(self.fc1(x.flatten(1))))
        return scores


def mnist(_: Folders) -> Run:
    return Run(
        about="two convolutions, 2,000 digits of MNIST, Adam",
        network=SmallCNN,
        data=digits(),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: Adam(model.parameters(), 1e-3),
        epochs=15,
        results=["fc2"],
    )


def four_epochs(folders: Folders) -> Run:
    return replace(
        garments(folders),
        about="three convolutions with norms, 8,000 garments, AdamW, only 4 epochs",
        epochs=4,
    )


def no_epochs(folders: Folders) -> Run:
    return replace(
        mnist(folders),
        about="two convolutions, 2,000 digits, and nobody says how many epochs there will be",
        says_epochs=False,
        epochs=20,
    )


def every_second(folders: Folders) -> Run:
    return replace(
        mnist(folders),
        about="two convolutions, 2,000 digits, evaluated every second epoch only",
        evaluates_every=2,
        epochs=16,
    )


def _conv(width_in: int, width: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def _stack() -> nn.Module:
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)
    return nn.Sequential(_conv(1, 16, 2), _conv(16, 32), _conv(32, 48, 2), *head)


def _strided() -> nn.Module:
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10)
    return nn.Sequential(_conv(1, 16, 2), _conv(16, 32, 2), _conv(32, 48, 2), *head)


def _half(data: Data) -> Data:
    """With the first 4,000 samples to train on."""
    return replace(data, train=rows(data.train, slice(0, 4_000)))


def garments(folders: Folders) -> Run:
    return Run(
        about="three convolutions with norms, 8,000 garments, AdamW, cosine",
        network=_stack,
        data=fashion(folders),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: AdamW(model.parameters(), 2e-3, weight_decay=1e-2),
        scheduler=CosineAnnealingLR,
        epochs=10,
        batch=64,
        results=["5"],
    )


def mixed(folders: Folders) -> Run:
    return replace(
        garments(folders),
        about="convolutions of stride 2, bfloat16, accumulated gradients, clipping, a mean of the weights",
        network=_strided,
        data=_half(fashion(folders)),
        epochs=6,
        batch=32,
        accumulate=2,
        is_mixed=True,
        clip=1.0,
        decay=0.98,
    )


def resnet(folders: Folders) -> Run:
    return Run(
        about="ResNet-8 (78 k parameters), 4,000 garments, SGD with momentum, one cycle",
        network=ResNet8,
        data=_half(fashion(folders)),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4),
        scheduler=lambda optimizer, steps: OneCycleLR(optimizer, 0.2, total_steps=steps),
        epochs=8,
        batch=64,
        results=["classify"],
    )


def ten_minutes(folders: Folders) -> Run:
    return replace(
        resnet(folders),
        about="ResNet-8, all 59,000 garments, SGD with momentum, one cycle: ten minutes on one core",
        data=all_fashion(folders),
        epochs=18,
    )


class Separable(nn.Module):
    """An inverted residual: widen, filter every channel, narrow."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        inner = 4 * width_in
        self.body = nn.Sequential(
            nn.Conv2d(width_in, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        self.adds = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.adds else y


def _mobile() -> nn.Module:
    blocks = (Separable(16, 24, 2), Separable(24, 24, 1), Separable(24, 40, 2), Separable(40, 40, 1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(40, 10))
    return nn.Sequential(_conv(1, 16, 2), *blocks, *head)


def mobile(folders: Folders) -> Run:
    return replace(
        garments(folders),
        about="inverted residuals with depthwise convolutions, 8,000 garments, AdamW, cosine",
        network=_mobile,
        epochs=6,
        results=["8"],
    )


class VisionTransformer(nn.Module):
    """Patches of 4 x 4 pixels, a class token, and torch's own encoder layers."""

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 50, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        scores: Tensor = self.head(self.norm(self.encoder(x)[:, 0]))
        return scores


def vision_transformer(_: Folders) -> Run:
    return Run(
        about="vision transformer (155 k parameters), 2,000 digits, AdamW, cosine",
        network=VisionTransformer,
        data=digits(),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: AdamW(model.parameters(), 1e-3, weight_decay=5e-2),
        scheduler=CosineAnnealingLR,
        epochs=10,
        results=["head"],
        round_to=4,
    )
