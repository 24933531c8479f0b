"""A training as anybody has it, for the loop in the README."""

import torch
from torch import nn

from tests.docs.material import Network, loader_of

model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))
epochs = 4
