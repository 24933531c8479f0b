"""Networks with more than one input or output: by keyword, two of a kind, two heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW

from strangers_runs.data import COEFFICIENTS, digits, spoken_by_keyword, turned_digits
from strangers_runs.images import mnist
from strangers_runs.run import Batch, Data, Folders, Run, is_right, size


class Masked(nn.Module):
    """Convolutions over time and the mean over the frames that are shown; called and answering by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(COEFFICIENTS, 64, 5, padding=2)
        self.conv2 = nn.Conv1d(64, 96, 5, padding=2)
        self.embed, self.classify = nn.Linear(96, 64), nn.Linear(64, 10)

    def forward(self, *, sounds: Tensor, shown: Tensor) -> dict[str, Tensor]:
        x = F.gelu(self.conv2(F.gelu(self.conv1(sounds))))
        x = (x * shown[:, None]).sum(2) / shown.sum(1, keepdim=True).clamp(min=1)
        embedding = torch.tanh(self.embed(x))
        return {"logits": self.classify(embedding), "embedding": embedding}


def keywords(_: Folders) -> Run:
    return Run(
        about="keyword inputs and a mapping as output: convolutions over 2,000 spoken digits, AdamW",
        network=Masked,
        data=spoken_by_keyword(),
        loss=lambda output, classes: F.cross_entropy(output["logits"], classes),
        score=lambda output, classes: is_right(output["logits"], classes),
        optimizer=lambda model: AdamW(model.parameters(), 1e-3),
        epochs=15,
        results=["classify", "embed"],
    )


class Sum(nn.Module):
    """The same eye for both images; what it has seen is joined."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(),
        )  # fmt: skip
        self.join, self.classify = nn.Linear(128, 64), nn.Linear(64, 19)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        x = torch.cat([self.eye(first), self.eye(second)], 1)
        scores: Tensor = self.classify(F.relu(self.join(x)))
        return scores


def two_inputs(_: Folders) -> Run:
    def paired(batch: Batch, count: int) -> Batch:
        images, classes = batch
        first, second = torch.randint(size(batch), (2, count), generator=torch.Generator().manual_seed(count))
        return (images[first], images[second]), classes[first] + classes[second]

    data = digits()
    return Run(
        about="two inputs: the sum of two digits, 6,000 pairs of 2,000 digits of MNIST, Adam",
        network=Sum,
        data=Data(paired(data.train, 6_000), paired(data.probe, 800), paired(data.test, 4_000)),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: Adam(model.parameters(), 1e-3),
        epochs=10,
        results=["classify"],
    )


class TwoHeads(nn.Module):
    """Which digit, and by how much it was turned, from one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 96), nn.ReLU(),
        )  # fmt: skip
        self.digit, self.angle = nn.Linear(96, 10), nn.Linear(96, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(images)
        return self.digit(x), self.angle(x)


def two_heads(folders: Folders) -> Run:
    def both(turned: Batch, plain: Batch) -> Batch:
        return turned[0], (plain[1], turned[1])

    def loss(output: Any, target: Any) -> Tensor:
        return F.cross_entropy(output[0], target[0]) + 4 * F.mse_loss(output[1], target[1])

    data, plain = turned_digits(), digits()
    return replace(
        mnist(folders),
        about="two heads: which digit, and by how much it was turned; 2,000 digits, Adam",
        network=TwoHeads,
        data=Data(both(data.train, plain.train), both(data.probe, plain.probe), both(data.test, plain.test)),
        loss=loss,
        score=lambda output, target: is_right(output[0], target[0]),
        epochs=25,
        results=["digit", "angle"],
    )
