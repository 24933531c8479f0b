"""What importance tracking costs a training step: paired in one run, against the target of 0.1 %.

    python benchmarks/tracking_overhead.py [--blocks 40] [--steps 32]

Blocks of steps alternate between three arms: no tracker, the tracker as it is by default (the governor
chooses the stride) and the tracker at every step. Arms run in a new order in every round. Printed per
network: the median step of each arm, the median of the paired ratios with a 95 % interval (bootstrap over
rounds), the share that the tracker measured itself, and a second arm without tracker, which shows what this
machine cannot tell apart.
"""

from __future__ import annotations

import argparse
import random
import time
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from esper.anatomy.units import inspect
from esper.importance import ImportanceSettings
from esper.importance.tracker import ImportanceTracker

TARGET = 0.001


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.short = nn.Conv2d(inner, outer, 1, stride, bias=False) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.short(x))


def resnet() -> tuple[nn.Module, Tensor, Tensor]:
    widths = (32, 64, 128)
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    stages = [Block(a, b, 1 if a == b else 2) for a, b in zip((32, *widths[:-1]), widths, strict=True)]
    network = nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return network, torch.randn(32, 3, 32, 32), torch.randint(10, (32,))


class Decoder(nn.Module):
    def __init__(self, width: int = 128, layers: int = 2, vocabulary: int = 256) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.out(self.layers(self.embed(tokens)).mean(1))
        return logits


def transformer() -> tuple[nn.Module, Tensor, Tensor]:
    return Decoder(), torch.randint(256, (16, 64)), torch.randint(256, (16,))


class Arms:
    """One network and optimizer; an arm is which tracker watches it."""

    def __init__(self, network: nn.Module, inputs: Tensor, target: Tensor) -> None:
        self.network, self.inputs, self.target = network, inputs, target
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        anatomy = inspect(network, inputs)
        parameters = dict(network.named_parameters())
        self.governed = ImportanceTracker(anatomy, parameters, self.optimizer, ImportanceSettings())
        self.every = ImportanceTracker(anatomy, parameters, self.optimizer, ImportanceSettings(stride=1))
        self.trackers = {"none": None, "none again": None, "default": self.governed, "every step": self.every}
        for tracker in (self.governed, self.every):
            tracker.detach()
        self.units = anatomy.num_units

    def step(self) -> None:
        self.optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(self.network(self.inputs), self.target))
        self.optimizer.step()

    def block_seconds(self, arm: str, steps: int) -> float:
        """Mean seconds of a step in one block."""
        tracker = self.trackers[arm]
        if tracker is not None:
            tracker.attach()
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        seconds = time.perf_counter() - start
        if tracker is not None:
            tracker.detach()
        return seconds / steps


def interval(ratios: list[float], generator: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    draws = generator.choice(ratios, (2000, len(ratios)))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return float(low), float(high)


def measure(name: str, arms: Arms, blocks: int, steps: int) -> None:
    shuffle, generator = random.Random(0), np.random.default_rng(0)
    for arm in arms.trackers:
        arms.block_seconds(arm, 8)
    seconds: dict[str, list[float]] = {arm: [] for arm in arms.trackers}
    order = list(arms.trackers)
    for _ in range(blocks):
        shuffle.shuffle(order)
        for arm in order:
            seconds[arm].append(arms.block_seconds(arm, steps))
    base = seconds["none"]
    print(f"\n{name}: {arms.units} units, {blocks} rounds of {steps} steps per arm")
    print(f"  {'arm':<12}{'step ms':>9}{'over none':>11}   95 % interval")
    for arm, times in seconds.items():
        ratios = [a / b - 1 for a, b in zip(times, base, strict=True)]
        low, high = interval(ratios, generator)
        print(f"  {arm:<12}{median(times) * 1e3:9.2f}{median(ratios):11.2%}   {low:+.2%} .. {high:+.2%}")
    verdict = "met" if arms.governed.overhead_share <= TARGET else "MISSED"
    print(
        f"  default: stride {arms.governed.stride}, own share {arms.governed.overhead_share:.3%}; "
        f"target {TARGET:.1%} {verdict}"
    )
    print(f"  every step: own share {arms.every.overhead_share:.2%}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--blocks", type=int, default=40)
    arguments.add_argument("--steps", type=int, default=32)
    given = arguments.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for make in (resnet, transformer):
        measure(make.__name__, Arms(*make()), given.blocks, given.steps)


if __name__ == "__main__":
    main()
