"""A network that was looked at, and what trains it."""

import torch
from torch import nn

import esper
from tests.docs.material import Network, loader_of, train

model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))
anatomy = esper.inspect(model, (x, y), loss=criterion)


def train_one_epoch() -> int:
    return train(model, optimizer, loader)
