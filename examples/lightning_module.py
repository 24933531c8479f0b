"""Prunes a network that Lightning trains on scikit-learn's digits: `python examples/lightning_module.py`.

Takes half a minute. One line is Esper's.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from esper.integrations.lightning import EsperCallback

Batch = tuple[Tensor, Tensor]


class Digits(LightningModule):
    """A convolutional network and how it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(256, 10)),
        )
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores [pictures, 10]."""
        scores: Tensor = self.layers(pictures)
        return scores

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """The loss of one batch."""
        loss: Tensor = self.criterion(self(batch[0]), batch[1])
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Logs the share of right answers."""
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimizer for all."""
        return torch.optim.AdamW(self.parameters(), 2e-3)


def loaders() -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Pictures [1, 8, 8] and the digits on them: to train with, and to validate on."""
    pixels, numbers = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(numbers)
    train, held_out = TensorDataset(x[:1200], y[:1200]), TensorDataset(x[1200:], y[1200:])
    return DataLoader(train, 32, shuffle=True), DataLoader(held_out, 64)


def main(folder: Path, epochs: int = 10) -> EsperCallback:
    """Trains, prunes, cuts and validates; returns the callback."""
    seed_everything(0, verbose=False)
    train, held_out = loaders()
    callback = EsperCallback(target=0.5, run_dir=folder / "esper")
    best = ModelCheckpoint(folder / "lightning", monitor="accuracy", mode="max")
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[best, callback],
    )
    module = Digits()
    trainer.fit(module, train, held_out)
    trainer.validate(module, held_out)
    print(callback.result)
    return callback


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main(Path(tempfile.mkdtemp(prefix="esper-lightning-")))
