"""Convolutional networks: plain, residual, depthwise, grouped, dense, gated, transposed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.anatomy.networks.case import Case, images


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 40),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(40, 10),
    )


class BasicBlock(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.added = width - width_in
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 and shortcut == "projection":
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )
        elif stride > 1:
            self.shortcut = Padded(self.added)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu(y, inplace=True)


class Padded(nn.Module):
    """The parameter-free shortcut ('option A'): every second pixel, new channels are zero."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))


class ResNet(nn.Module):
    def __init__(self, depth: int = 1, shortcut: str = "projection", width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        blocks, width_in = [], width
        for stage in range(3):
            for number in range(depth):
                blocks.append(
                    BasicBlock(width_in, width << stage, 2 if stage and number == 0 else 1, shortcut)
                )
                width_in = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width_in, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return out


def _normed(width_in: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU6())


class Pooled(nn.Module):
    """Features, mean over space, classifier."""

    def __init__(self, features: nn.Module, width: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.features(x).mean([2, 3]))
        return out


def mobile() -> nn.Module:
    features = nn.Sequential(
        _normed(3, 16),
        _normed(16, 48, 1),
        _normed(48, 48, 3, 2, groups=48),
        nn.Conv2d(48, 24, 1, bias=False),
        nn.BatchNorm2d(24),
        _normed(24, 72, 1),
        _normed(72, 72, 3, 1, groups=72),
        nn.Conv2d(72, 24, 1),
        nn.BatchNorm2d(24),
    )
    return Pooled(features, 24)


def depthwise_multiplier() -> nn.Module:
    return Pooled(nn.Sequential(_normed(3, 8), nn.Conv2d(8, 24, 3, groups=8), nn.ReLU()), 24)


def resnext() -> nn.Module:
    return Pooled(
        nn.Sequential(_normed(3, 16), _normed(16, 32, 1), _normed(32, 32, 3, groups=8), _normed(32, 16, 1)),
        16,
    )


def few_wide_groups() -> nn.Module:
    return Pooled(nn.Sequential(_normed(3, 16), _normed(16, 32, groups=2), _normed(32, 16, groups=2)), 16)


class Gated(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = _normed(3, 16), nn.Conv2d(16, 8, 1)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        gate = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        out: Tensor = self.last(x * gate.sigmoid())
        return out


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 6 * i), nn.ReLU(), nn.Conv2d(8 + 6 * i, 6, 3, padding=1))
            for i in range(4)
        )
        self.norm, self.head = nn.BatchNorm2d(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        out: Tensor = self.head(F.relu(self.norm(x)).mean((2, 3)))
        return out


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = _normed(3, 8), _normed(8, 16, 3, 2), _normed(16, 32, 3, 2)
        self.up2, self.merge2 = nn.ConvTranspose2d(32, 16, 2, 2), _normed(32, 16)
        self.up1, self.merge1 = nn.ConvTranspose2d(16, 8, 2, 2), _normed(16, 8)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(one)
        y = self.merge2(torch.cat([two, self.up2(self.bottom(two))], 1))
        y = self.merge1(torch.cat([one, self.up1(y)], 1))
        out: Tensor = self.last(y)
        return out


def transposed_groups() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 24, 3, groups=4),
        nn.ReLU(),
        nn.Conv2d(24, 4, 1),
    )


def group_normed() -> nn.Module:
    return Pooled(nn.Sequential(nn.Conv2d(3, 24, 3), nn.GroupNorm(6, 24), nn.SiLU(), nn.Conv2d(24, 8, 1)), 8)


def group_normed_bare() -> nn.Module:
    norm = nn.GroupNorm(6, 24, affine=False)
    return Pooled(nn.Sequential(nn.Conv2d(3, 24, 3), norm, nn.SiLU(), nn.Conv2d(24, 8, 1)), 8)


def instance_normed() -> nn.Module:
    norms = nn.InstanceNorm2d(12), nn.InstanceNorm2d(16, affine=True)
    return Pooled(nn.Sequential(nn.Conv2d(3, 12, 3), norms[0], nn.ReLU(), nn.Conv2d(12, 16, 3), norms[1]), 16)


class Shuffle(nn.Module):
    """ShuffleNet's unit: split the channels, work on one half, concatenate, shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch = _normed(3, 16), nn.Sequential(_normed(8, 12, 1), _normed(12, 8, 1))
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = self.first(x).chunk(2, dim=1)
        x = torch.cat([kept, self.branch(worked)], 1)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, -1, h, w)
        out: Tensor = self.last(x)
        return out


class ShuffledGroups(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _normed(3, 24), nn.Conv2d(24, 24, 1, groups=3)
        self.shuffle, self.third, self.last = (
            nn.ChannelShuffle(3),
            nn.Conv2d(24, 12, 1, groups=3),
            nn.Conv2d(12, 4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(F.relu(self.third(self.shuffle(F.relu(self.second(self.first(x)))))))
        return out


def pixel_shuffle() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 1),
        nn.PixelShuffle(2),
        nn.Conv2d(8, 3, 1),
    )


def pixel_unshuffle() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.PixelUnshuffle(2), nn.ReLU(), nn.Conv2d(32, 6, 3), nn.Conv2d(6, 2, 1)
    )


def parametric() -> nn.Module:
    return Pooled(nn.Sequential(nn.Conv2d(3, 12, 3), nn.PReLU(12), nn.Conv2d(12, 8, 3), nn.PReLU()), 8)


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 16, 5, padding=2, dilation=1),
        nn.BatchNorm1d(16),
        nn.GELU(),
        nn.Conv1d(16, 24, 3),
        nn.AvgPool1d(2),
        nn.Conv1d(24, 2, 1),
    )


def three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1),
        nn.BatchNorm3d(8),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(8, 12, 3),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


class Reused(nn.Module):
    """One convolution at three places: its input and output channels are one and the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.last = (
            nn.Conv2d(3, 12, 1),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.Conv2d(12, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(3):
            x = F.relu(self.again(x))
        out: Tensor = self.last(x)
        return out


class SliceGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both, self.last, self.size = nn.Conv2d(3, 24, 1), nn.Conv2d(12, 2, 1), 12

    def forward(self, x: Tensor) -> Tensor:
        x = self.both(x)
        out: Tensor = self.last(x[:, : self.size].tanh() * x[:, self.size :].sigmoid())
        return out


def glu() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 1), nn.GLU(dim=1), nn.Conv2d(12, 10, 1), nn.ReLU(), nn.Conv2d(10, 2, 1)
    )


CONVOLUTION = {
    "plain": Case(plain, images(), groups=3),
    "resnet8": Case(ResNet, images(), groups=6),
    "resnet14": Case(lambda: ResNet(2), images(), groups=9),
    "resnet8-padding": Case(lambda: ResNet(1, "padding"), images(), groups=4),
    "mobile": Case(mobile, images(), groups=5),
    "depthwise-multiplier": Case(depthwise_multiplier, images(), groups=1),
    "resnext": Case(resnext, images(), groups=3),
    "few-wide-groups": Case(few_wide_groups, images(), groups=3),
    "squeeze-excitation": Case(Gated, images(), groups=2),
    "densenet": Case(Dense, images(), groups=5),
    "unet": Case(UNet, images(), groups=7),
    "transposed-groups": Case(transposed_groups, images(), groups=2),
    "group-norm": Case(group_normed, images(), groups=2),
    "group-norm-without-weights": Case(group_normed_bare, images(), groups=2),
    "instance-norm": Case(instance_normed, images(), groups=2),
    "shufflenet": Case(Shuffle, images(), groups=2),
    "shuffled-groups": Case(ShuffledGroups, images(), groups=2),
    "pixel-shuffle": Case(pixel_shuffle, images(), groups=2),
    "pixel-unshuffle": Case(pixel_unshuffle, images(), groups=2),
    "prelu": Case(parametric, images(), groups=2),
    "conv1d": Case(one_dimensional, lambda: torch.randn(2, 4, 20), groups=2),
    "conv3d": Case(three_dimensional, lambda: torch.randn(2, 1, 8, 8, 8), groups=2),
    "reused-module": Case(Reused, images(), groups=1),
    "slice-gate": Case(SliceGate, images(), groups=1),
    "glu": Case(glu, images(), groups=2),
}
