"""Two tasks that were chosen before anything was tried on them, and that nothing was ever tuned on."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from one_run_tasks import texts
from pretrained_networks.case import packaged
from strangers_runs.data import PADDING, UNKNOWN, fashion
from strangers_runs.run import Batch, Data, Folders, Run, is_right, rows

SIDE = 32
PHOTOS = {
    "train": ("astronaut.png", "coffee.png"),
    "probe": ("motorcycle_left.png",),
    "test": ("chelsea.png", "rocket.jpg"),
}
"""Color photographs of scikit-image, by what they are behind; none is in two parts."""
ERAS = (1866, 1931)
"""Where one era of the speeches ends and the next begins."""
EXCERPT, VOCABULARY = 48, 4_000
"""Words of one excerpt, and words that have a number of their own."""


def garments_on_photos(folders: Folders) -> Run:
    return Run(
        about="VGG-like, batch norms, 5,000 garments blended onto crops of color photographs, SGD, cosine",
        network=_vgg,
        data=_blended(folders),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True),
        scheduler=CosineAnnealingLR,
        epochs=8,
        batch=64,
        results=["classify"],
    )


def _vgg() -> nn.Module:
    model, width_in = nn.Sequential(), 3
    for number, width in enumerate((32, 32, 64, 64, 128)):
        model.add_module(f"conv{number}", nn.Conv2d(width_in, width, 3, padding=1, bias=False))
        model.add_module(f"norm{number}", nn.BatchNorm2d(width))
        model.add_module(f"relu{number}", nn.ReLU())
        if number in (1, 3):
            model.add_module(f"pool{number}", nn.MaxPool2d(2))
        width_in = width
    model.add_module("mean", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("hidden", nn.Sequential(nn.Linear(width_in, 128), nn.ReLU(), nn.Dropout(0.3)))
    model.add_module("classify", nn.Linear(128, 10))
    return model


@cache
def _blended(folders: Folders) -> Data:
    """Garments [n, 3, 32, 32]: the absolute difference to a random crop of a photograph."""
    garments = fashion(folders)
    first = rows(garments.train, slice(0, 5_000))
    train, probe, test = (_photos(part) for part in PHOTOS)
    return Data(_onto(first, train, 1), _onto(garments.probe, probe, 2), _onto(garments.test, test, 3))


def _photos(part: str) -> list[Tensor]:
    from PIL import Image

    files = [packaged("scikit-image", f"skimage/data/{name}") for name in PHOTOS[part]]
    pixels = [np.asarray(Image.open(file).convert("RGB"), np.float32) / 255 for file in files]
    return [torch.from_numpy(photo.transpose(2, 0, 1).copy()) for photo in pixels]


def _onto(batch: Batch, photos: list[Tensor], seed: int) -> Batch:
    images, classes = batch
    random = np.random.default_rng(seed)
    darkest, brightest = float(images.min()), float(images.max())
    shown = F.pad((images - darkest) / (brightest - darkest), [(SIDE - 28) // 2] * 4)
    crops = torch.empty(len(images), 3, SIDE, SIDE)
    for crop in crops:
        photo = photos[int(random.integers(len(photos)))]
        top, left = (int(random.integers(0, size - SIDE + 1)) for size in photo.shape[1:])
        crop.copy_(photo[:, top : top + SIDE, left : left + SIDE])
    return 2 * (crops - shown).abs() - 1, classes


class Phrases(nn.Module):
    """Convolutions over three, four and five words, the strongest answer of each, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 64, padding_idx=PADDING)
        self.phrases = nn.ModuleList(nn.Conv1d(64, 96, size) for size in (3, 4, 5))
        self.drop = nn.Dropout(0.5)
        self.classify = nn.Linear(3 * 96, len(ERAS) + 1)

    def forward(self, numbers: Tensor) -> Tensor:
        embedded = self.words(numbers).transpose(1, 2)
        strongest = [F.relu(phrase(embedded)).amax(2) for phrase in self.phrases]
        scores: Tensor = self.classify(self.drop(torch.cat(strongest, 1)))
        return scores


def era_of_a_speech(folders: Folders) -> Run:
    return Run(
        about="convolutions over words, which era an excerpt of a speech is from, 8,000 excerpts, Adam",
        network=Phrases,
        data=_excerpts(folders.speeches),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: Adam(model.parameters(), 1e-3),
        epochs=8,
        batch=64,
        results=["classify"],
    )


@cache
def _excerpts(folder: Path | None) -> Data:
    """Excerpts as numbers of words [n, 48], and the era of each; every eighth speech judges, or evaluates."""
    parts: dict[str, list[tuple[list[str], int]]] = {"train": [], "probe": [], "test": []}
    for number, (year, text) in enumerate(texts(folder)):
        words = re.findall("[a-z]+", text.lower())
        era = sum(year >= border for border in ERAS)
        part = {3: "probe", 7: "test"}.get(number % 8, "train")
        parts[part] += [(words[at : at + EXCERPT], era) for at in range(0, len(words) - EXCERPT, EXCERPT)]
    random = np.random.default_rng(0)
    chosen = {
        part: [lines[n] for n in random.permutation(len(lines))[:count]]
        for (part, lines), count in zip(parts.items(), (8_000, 800, 3_000), strict=True)
    }
    common = Counter(word for line, _ in chosen["train"] for word in line).most_common(VOCABULARY - 2)
    numbers = {word: number for number, (word, _) in enumerate(common, start=2)}
    return Data(*(_coded(lines, numbers) for lines in chosen.values()))


def _coded(lines: list[tuple[list[str], int]], numbers: dict[str, int]) -> Batch:
    coded = [[numbers.get(word, UNKNOWN) for word in line] for line, _ in lines]
    return torch.tensor(coded), torch.tensor([era for _, era in lines])
