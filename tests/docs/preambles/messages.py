"""A run whose newest checkpoint has a decision beside it."""

import torch
from torch import nn

import esper
from tests.docs.material import Network, evaluate, loader_of, train

model = Network()
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
criterion = nn.CrossEntropyLoss()
loader, val_loader = loader_of(256, seed=0), loader_of(128, seed=1)
x, y = next(iter(val_loader))

session = esper.attach(
    model,
    optimizer,
    loss=criterion,
    sample=(x, y),
    probe=val_loader,
    run_dir="runs/first",
    config={
        "pruning": {"target": {"flops": 0.5}, "schedule": {"start_epoch": 1}},
        "analysis": {"workers": 0, "min_optimizer_steps": 1},
        "validation": {"limits": {"channel": 0.5}, "min_retention": 0.01},
    },
    epochs=6,
)
for _ in range(4):
    train(model, optimizer, loader)
    session.end_epoch(accuracy=evaluate(model))
session.detach()
