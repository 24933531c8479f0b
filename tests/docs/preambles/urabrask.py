"""A network that has learned, and a mask to be judged on held-out data."""

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
held_out = list(val_loader)
for _ in range(3):
    train(model, optimizer, loader)
anatomy = esper.inspect(model, (x, y), loss=criterion)
keep_before = np.ones(anatomy.num_units, dtype=np.bool_)
keep_after = keep_before.copy()
keep_after[0] = False
floors = np.array([1 for _ in anatomy.groups])
