"""A training with a schedule, for the store alone."""

from pathlib import Path

import torch
from torch import nn

from tests.docs.material import Network, loader_of, train

model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
run_dir = Path("runs/first")
epochs, steps = 3, [0]


def train_one_epoch() -> int:
    steps.append(steps[-1] + train(model, optimizer, loader))
    return steps[-1]
