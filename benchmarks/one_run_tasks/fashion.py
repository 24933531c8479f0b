"""ResNet-8 on Fashion-MNIST."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from esper.cli.demo import ResNet8
from one_run_tasks.task import Batch, Task
from pretrained_networks.case import Missing

FOLDER = Path("/usr/share/datasets/fashion-mnist")
TRAIN, PROBE, BATCH, EPOCHS = 12_000, 1_000, 64, 24
STEPS = 50


def fashion(folder: Path | None) -> Task:
    """12,000 training images are drawn from in 24 stretches of 3,200; 1,000 others decide, 10,000 judge."""
    images, labels = fashion_part(folder, "train")
    test_images, test_labels = fashion_part(folder, "t10k")
    mean, deviation = images[:TRAIN].mean(), images[:TRAIN].std()
    images, test_images = (images - mean) / deviation, (test_images - mean) / deviation

    def stretch(seed: int, number: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(1_000 * seed + number)
        chosen = torch.randperm(TRAIN, generator=generator)[: STEPS * BATCH].split(BATCH)
        return [(images[part], labels[part]) for part in chosen]

    test = _batches(test_images, test_labels)
    return Task(
        network=ResNet8,
        stretch=stretch,
        loss=smoothed,
        probe=_batches(images[TRAIN : TRAIN + PROBE], labels[TRAIN : TRAIN + PROBE]),
        watch=test[:8],
        test=test,
        is_accuracy=True,
        epochs=EPOCHS,
        steps=STEPS,
        peak=2e-3,
        results=("classify",),
        about="ResNet-8 (78 k parameters), Fashion-MNIST, accuracy on its 10,000 test images",
    )


def smoothed(scores: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(scores, labels, label_smoothing=0.1)


def _batches(images: Tensor, labels: Tensor) -> list[Batch]:
    return list(zip(images.split(250), labels.split(250), strict=True))


def fashion_part(folder: Path | None, name: str) -> tuple[Tensor, Tensor]:
    """Images as float32 [n, 1, 28, 28] from 0 to 1, and labels as int64 [n]."""
    where = folder or FOLDER
    pixels, labels = (where / f"{name}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    if not pixels.is_file():
        raise Missing(f"{pixels} is not there: apt-get install dataset-fashion-mnist, or give --fashion DIR")
    raw = np.frombuffer(gzip.decompress(pixels.read_bytes()), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    named = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
    return torch.from_numpy(raw.astype(np.float32) / 255), torch.from_numpy(named.astype(np.int64))
