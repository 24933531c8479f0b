"""A session whose second checkpoint is of step 1200."""

import torch
from torch import nn

import esper
from tests.docs.material import pictures

x, y = pictures(64, seed=0).tensors
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
optimizer = torch.optim.SGD(model.parameters(), 1e-3)
criterion = nn.CrossEntropyLoss()
session = esper.attach(
    model, optimizer, loss=criterion, sample=(x, y), probe=[(x, y)], run_dir="runs/first", epochs=8
)
for _ in range(3):
    for _ in range(600):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
    session.end_epoch(accuracy=0.5)
