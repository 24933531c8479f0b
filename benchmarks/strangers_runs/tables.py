"""Multilayer perceptrons on digits of 8 x 8 pixels, and networks that estimate a number."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW

from pretrained_networks.case import packaged
from strangers_runs.data import turned_digits
from strangers_runs.run import Data, Folders, Run, is_right, parts


def _small_digits() -> Data:
    """1,797 digits of 64 pixels: 1,100 to train on, 250 to evaluate with, 447 to judge by."""
    lines = gzip.decompress(packaged("scikit-learn", "sklearn/datasets/data/digits.csv.gz").read_bytes())
    rows = np.loadtxt(lines.decode().splitlines(), delimiter=",", dtype=np.float32)
    mixed = torch.from_numpy(np.random.default_rng(0).permutation(rows))
    return Data(*parts((mixed[:, :-1] / 16, mixed[:, -1].long()), 1_100, 250, 447))


def _perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)
    )  # fmt: skip


def perceptron(_: Folders) -> Run:
    return Run(
        about="perceptron of three layers, 1,100 digits of 64 pixels, Adam",
        network=_perceptron,
        data=_small_digits(),
        loss=F.cross_entropy,
        score=is_right,
        optimizer=lambda model: Adam(model.parameters(), 1e-3),
        epochs=30,
        batch=16,
        results=["4"],
    )


def hundred_epochs(folders: Folders) -> Run:
    return replace(
        perceptron(folders),
        about="perceptron of three layers, 1,100 digits of 64 pixels, SGD with momentum, 100 epochs",
        optimizer=lambda model: SGD(model.parameters(), 0.05, momentum=0.9),
        epochs=100,
    )


def _estimator() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 1),
    )  # fmt: skip


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square()


def regression(_: Folders) -> Run:
    return Run(
        about="by how much a digit was turned: two convolutions, two linear layers, 2,000 digits, AdamW",
        network=_estimator,
        data=turned_digits(),
        loss=F.mse_loss,
        score=_squared,
        metric="mse",
        is_loss=True,
        optimizer=lambda model: AdamW(model.parameters(), 1e-3),
        epochs=30,
        results=["7"],
    )


def regression_sgd(folders: Folders) -> Run:
    return replace(
        regression(folders),
        about="the same with plain SGD and momentum",
        optimizer=lambda model: SGD(model.parameters(), 0.02, momentum=0.9),
    )
