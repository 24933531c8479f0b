"""Where are the disks, the squares and the triangles? A U-Net on drawings under noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from strangers_runs.run import Batch, Data, Folders, Run

SIDE, KINDS = 32, 3
"""Pixels of a side; kinds of shapes, which the background precedes as class 0."""


def _drawn(count: int, seed: int) -> Batch:
    """Images [n, 1, 32, 32] of up to three shapes that hide each other, and classes [n, 32, 32]."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    images = 0.5 * torch.randn(count, 1, SIDE, SIDE, generator=random)
    classes = torch.zeros(count, SIDE, SIDE, dtype=torch.long)
    for image, labels in zip(images, classes, strict=True):
        for _ in range(3):
            kind = int(torch.randint(1, KINDS + 1, (), generator=random))
            row, column = torch.randint(6, SIDE - 6, (2,), generator=random).tolist()
            reach = int(torch.randint(3, 8, (), generator=random))
            down, right = rows - row, columns - column
            inside = {
                1: down**2 + right**2 <= reach**2,
                2: (down.abs() <= reach) & (right.abs() <= reach),
                3: (down.abs() <= reach) & (2 * right.abs() <= down + reach),
            }[kind]
            shade = 0.8 + 0.6 * float(torch.rand((), generator=random))
            image[0, inside] += shade - image[0, inside].mean()
            labels[inside] = kind
    return images, classes


def _double(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
    )  # fmt: skip


class UNet(nn.Module):
    """Two levels down and up again, each beside a shortcut that is joined."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.down1, self.down2 = _double(1, width), _double(width, 2 * width)
        self.bottom = _double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.merge2 = _double(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.merge1 = _double(2 * width, width)
        self.classify = nn.Conv2d(width, KINDS + 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.bottom(F.max_pool2d(two, 2))
        x = self.merge2(torch.cat([self.up2(x), two], 1))
        x = self.merge1(torch.cat([self.up1(x), one], 1))
        scores: Tensor = self.classify(x)
        return scores


def overlap(scores: Tensor, classes: Tensor) -> Tensor:
    """Of every image: pixels of shapes that are named rightly, among those that are or are named shapes."""
    named = scores.argmax(1)
    right = ((named == classes) & (classes > 0)).sum((1, 2))
    union = ((named > 0) | (classes > 0)).sum((1, 2))
    return right / union.clamp(min=1)


def unet(_: Folders) -> Run:
    return Run(
        about="U-Net of two levels, 800 drawings of shapes under noise, AdamW, cosine",
        network=UNet,
        data=Data(_drawn(800, 1), _drawn(160, 2), _drawn(600, 3)),
        loss=F.cross_entropy,
        score=overlap,
        metric="overlap",
        optimizer=lambda model: AdamW(model.parameters(), 3e-3),
        scheduler=CosineAnnealingLR,
        epochs=12,
        batch=16,
        results=["classify"],
    )
