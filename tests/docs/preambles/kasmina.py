"""A network with its optimizer, a mask, and what trains it."""

import numpy as np
import torch
from torch import nn

import esper
from tests.docs.material import Network, loader_of, train

model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))
sample, loss = (x, y), criterion
keep = np.ones(esper.inspect(model, sample, loss=loss).num_units, dtype=np.bool_)
keep[:4] = False


def train_one_epoch() -> int:
    return train(model, optimizer, loader)
