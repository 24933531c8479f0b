"""Grows a small network on scikit-learn's digits: `python examples/grow.py`, less than a minute.

Two seeds are germinated when the network has learned for a while. Gates decide what becomes
of each: a part of the network, or nothing.
"""

from __future__ import annotations

import logging

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import esper

EPOCHS = 20


def digits() -> tuple[Tensor, Tensor]:
    """Pictures [1797, 1, 8, 8] and the digits on them, shuffled."""
    pixels, numbers = load_digits(return_X_y=True)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)[order], torch.tensor(numbers)[
        order
    ]


def main(epochs: int = EPOCHS) -> esper.Growth:
    """Trains, grows, and tells; returns the growth."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU()),
        *(nn.Flatten(), nn.Linear(64, 10)),
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    x, y = digits()
    held_out, test = slice(1000, 1400), slice(1400, None)
    growth = esper.Growth(
        model,
        optimizer,
        loss=nn.CrossEntropyLoss(),
        probe=[(x[held_out], y[held_out])],
        settings={"train_steps": 60, "ramp_steps": 60},
    )
    for epoch in range(epochs):
        if epoch == 3:
            for path in ("2", "6"):
                print(growth.germinate(path, "conv", width=8))
        for chosen in torch.randperm(1000).split(32):
            optimizer.zero_grad()
            growth.loss(model(x[chosen]), y[chosen], x[chosen]).backward()
            optimizer.step()
        growth.end_epoch()
        print(f"epoch {epoch + 1}: {accuracy(model, x[test], y[test]):.1%} right")
    growth.finish()
    print(growth)
    return growth


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers."""
    model.eval()
    with torch.no_grad():
        share = float((model(x).argmax(1) == y).float().mean())
    model.train()
    return share


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
